package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pilotlight/cmd/pilotlight/process"
	"pilotlight/unwind"
)

// testTable has one rule, of a function that pushed one register, for n pages
// from address 0 on.
func testTable(n int) *unwind.Table {
	return &unwind.Table{
		Arch:  unwind.AMD64,
		Pages: slices.Repeat([]unwind.Page{{Count: 1}}, n),
		Rows:  []unwind.Row{{}},
		Rules: []unwind.Rule{{CFA: unwind.CFARegister, CFAReg: 7, CFAOff: 16, RA: unwind.SaveAtCFA, RAOff: -1}},
	}
}

func openCache(t *testing.T, dir string, limit int64) *tableCache {
	t.Helper()
	c, err := openTableCache(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestTableCache(t *testing.T) {
	dir, want, key := t.TempDir(), testTable(100), process.FileKey{1}
	c := openCache(t, dir, 1<<20)
	if _, err := c.get(key); !errors.Is(err, errNotCached) {
		t.Errorf("get from an empty cache: %v", err)
	}
	if err := c.put(key, want); err != nil {
		t.Fatal(err)
	}
	again := openCache(t, dir, 1<<20)
	if got, err := again.get(key); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if again.size != c.size || c.size == 0 {
		t.Errorf("%d bytes after opening again, %d before", again.size, c.size)
	}
	info, err := os.Stat(filepath.Join(dir, "unwind"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("cache directory: %v, %v", info.Mode(), err)
	}
}

// TestTableCacheIsMadeAgain has somebody remove the cache directory while it is used.
func TestTableCacheIsMadeAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := openCache(t, dir, 1<<20)
	if err := c.put(process.FileKey{1}, testTable(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := c.get(process.FileKey{1}); !errors.Is(err, errNotCached) {
		t.Errorf("get from a directory that is gone: %v", err)
	}
	if err := c.put(process.FileKey{2}, testTable(2)); err != nil {
		t.Fatal(err)
	}
	again := openCache(t, dir, 1<<20)
	if got, err := again.get(process.FileKey{2}); err != nil || !reflect.DeepEqual(got, testTable(2)) {
		t.Errorf("got %+v, %v", got, err)
	}
	if again.size != c.size {
		t.Errorf("%d bytes are there, %d counted", again.size, c.size)
	}

	// In its place is something else that is not to be written to.
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), os.Mkdir(filepath.Join(dir, "unwind"), 0o700), os.Chmod(filepath.Join(dir, "unwind"), 0o777)); err != nil {
		t.Fatal(err)
	}
	if err := c.put(process.FileKey{3}, testTable(3)); err == nil {
		t.Error("a table was kept where others may write")
	}
	if _, err := c.get(process.FileKey{3}); !errors.Is(err, errNotCached) {
		t.Errorf("get after that: %v", err)
	}
}

// TestDamagedTableIsRemoved has files that hold no table, one of them not even in the directory.
func TestDamagedTableIsRemoved(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, 1<<20)
	if err := c.put(process.FileKey{1}, testTable(1)); err != nil {
		t.Fatal(err)
	}
	path := func(key process.FileKey) string { return filepath.Join(dir, "unwind", key.String()) }
	whole, err := os.ReadFile(path(process.FileKey{1}))
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "table")
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 0xff
	for i, content := range [][]byte{{}, whole[:len(whole)/2], flipped, []byte("no table")} {
		key := process.FileKey{2, byte(i)}
		if err := os.WriteFile(path(key), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if table, err := c.get(key); err == nil || errors.Is(err, errNotCached) {
			t.Errorf("file %d: table %v, error %v", i, table, err)
		}
		if _, err := c.get(key); !errors.Is(err, errNotCached) {
			t.Errorf("file %d is still there: %v", i, err)
		}
	}
	if err := os.WriteFile(outside, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	link := process.FileKey{3}
	if err := os.Symlink(outside, path(link)); err != nil {
		t.Fatal(err)
	}
	if table, err := c.get(link); err == nil {
		t.Errorf("a link out of the directory was followed: %v", table)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("what the link leads to was touched: %v", err)
	}
}

// TestWhatIsNoFileIsRemoved has things under the names of tables that no agent puts there, and that would be waited for
// or take all memory.
func TestWhatIsNoFileIsRemoved(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, 1<<30)
	path := func(key process.FileKey) string { return filepath.Join(dir, "unwind", key.String()) }
	pipe, folder, huge := process.FileKey{1}, process.FileKey{2}, process.FileKey{3}
	if err := unix.Mkfifo(path(pipe), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path(folder), "more"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path(huge), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path(huge), maxCachedTable+1); err != nil {
		t.Fatal(err)
	}
	for _, key := range []process.FileKey{pipe, folder, huge} {
		if table, err := c.get(key); !errors.Is(err, unwind.ErrTableDamaged) && !errors.Is(err, errNoFile) {
			t.Errorf("%v: table %v, error %v", key, table, err)
		}
		if err := c.put(key, testTable(1)); err != nil {
			t.Errorf("%v is in the way of a table: %v", key, err)
		}
		if _, err := c.get(key); err != nil {
			t.Errorf("%v: %v", key, err)
		}
	}
}

func TestTableCacheOfOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "unwind"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "unwind"), 0o777); err != nil {
		t.Fatal(err)
	}
	if c, err := openTableCache(dir, 1<<20); err == nil {
		t.Errorf("opened although everybody may write it: %v", c.close())
	}
}

// TestTableCacheElsewhereIsRefused has a link to a directory of this user, as somebody else may have put it where
// the cache directory was named.
func TestTableCacheElsewhereIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "unwind")); err != nil {
		t.Fatal(err)
	}
	if err := CheckCacheDir(dir, os.Geteuid()); err == nil {
		t.Error("found nothing wrong with a link out of the cache directory")
	}
	if c, err := openTableCache(dir, 1<<20); err == nil {
		t.Errorf("opened a link out of the cache directory: %v", c.close())
	}
}

// TestTableCacheLeavesOtherFiles fills a cache in whose directory are files that no agent made.
func TestTableCacheLeavesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, 1)
	other := filepath.Join(dir, "unwind", "other")
	if err := os.WriteFile(other, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.put(process.FileKey{1}, testTable(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.get(process.FileKey{1}); !errors.Is(err, errNotCached) {
		t.Errorf("a cache for one byte keeps a table: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

func TestTableCacheForgetsWhatWasNotUsed(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, 1<<30)
	for i := range 8 {
		key := process.FileKey{byte(i)}
		if err := c.put(key, testTable(1000)); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(time.Duration(i-100) * time.Minute)
		if err := c.dir.Chtimes(key.String(), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.get(process.FileKey{0}); err != nil { // the oldest is used
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{temporary + "1": 2 * staleTemporary, temporary + "2": 0} {
		if err := os.WriteFile(filepath.Join(dir, "unwind", name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.dir.Chtimes(name, time.Now(), time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	c.limit = c.size / 2
	if err := c.evict(); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		_, err := c.get(process.FileKey{byte(i)})
		if there, want := err == nil, i == 0 || i >= 6; there != want {
			t.Errorf("table %d is there: %v, want %v", i, there, want)
		}
	}
	for name, want := range map[string]bool{temporary + "1": false, temporary + "2": true} {
		if _, err := c.dir.Stat(name); (err == nil) != want {
			t.Errorf("%s: %v, want it kept: %v", name, err, want)
		}
	}
}

// TestGiveCacheDir gives root's cache to another user, and leaves alone what others may have put there.
func TestGiveCacheDir(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("REQUIRE_ALL") != "1" {
		t.Skip("giving files to others needs root")
	}
	const uid, gid = 12345, 12346
	dir := t.TempDir()
	cache, err := openTableCache(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cache.put(process.FileKey{1}, testTable(1)), cache.close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"notes", "fetched"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	owner := func(name string) uint32 {
		t.Helper()
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Uid
	}
	for range 2 { // the second time it is theirs
		if err := GiveCacheDir(dir, uid, gid, "fetched", "absent"); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]uint32{"unwind": uid, "unwind/" + (process.FileKey{1}).String(): uid, "symbols": uid, "fetched": uid, "notes": 0} {
		if got := owner(name); got != want {
			t.Errorf("%s belongs to user %d, want %d", name, got, want)
		}
	}
	if err := CheckCacheDir(dir, uid); err != nil {
		t.Errorf("after it was given: %v", err)
	}
	if err := CheckCacheDir(dir, uid+1); err == nil {
		t.Error("another user's cache is good enough")
	}

	// Where everybody may make links, files may be others' by another name.
	dir = t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "unwind"), 0o700), os.Chmod(filepath.Join(dir, "unwind"), 0o777)); err != nil {
		t.Fatal(err)
	}
	if err := GiveCacheDir(dir, uid, gid); err == nil || owner("unwind") != 0 {
		t.Errorf("gave away a directory that everybody may write: %v", err)
	}
}
