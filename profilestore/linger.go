package profilestore

import (
	"errors"
	"io/fs"
	"path/filepath"
	"time"
)

// What was replaced lingers, so that a copy of the directory that somebody is making (cp, rsync, tar) has what was
// replaced or what replaced it, in whatever order it reads the directories: blocks that were merged into others, and
// logs whose profiles are in blocks. A start on such a copy finds both, and makes one of them.
const (
	lingerTime = 10 * time.Minute // a copy takes less
	lingerLogs = 256 << 20        // bytes: a start reads them all
)

// lingering is a file or directory that nothing of the store needs any more.
type lingering struct {
	path  string
	bytes int64
	since time.Time
	log   bool
}

// linger has a path removed later. For the maintainer.
func (s *Store) linger(path string, bytes int64, log bool) {
	s.lingering = append(s.lingering, lingering{path, bytes, time.Now(), log})
}

func (s *Store) isLingering(path string) bool {
	for i := range s.lingering {
		if s.lingering[i].path == path {
			return true
		}
	}
	return false
}

// removeLingering removes what has lingered long enough, what is too much, and all of it when the disk is full. What cannot
// be removed keeps those behind it: if they went and it was there at the next start, nothing would say that it was
// replaced.
func (s *Store) removeLingering() error {
	full := s.full.Swap(false)
	var logs, others int64
	for _, l := range s.lingering {
		if l.log {
			logs += l.bytes
		} else {
			others += l.bytes
		}
	}
	left := s.lingering[:0]
	for i, l := range s.lingering { // oldest first
		sum, most := &others, s.largestMerge()
		if l.log {
			sum, most = &logs, lingerLogs
		}
		if !full && *sum <= most && time.Since(l.since) < s.o.linger {
			left = append(left, l)
			continue
		}
		*sum -= l.bytes
		if err := s.discard(l.path); err != nil {
			s.lingering = append(left, s.lingering[i:]...)
			return err
		}
	}
	s.lingering = left
	return nil
}

// discard deletes a file or directory. It goes at once: half a directory would look like damage. And it is gone
// before the next one goes, because a block must not outlive the one that replaced it, which may be replaced too.
func (s *Store) discard(path string) error {
	gone := path + tmpSuffix
	if err := s.fs.RemoveAll(gone); err != nil {
		return err
	}
	err := s.fs.Rename(path, gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.fs.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	return s.fs.RemoveAll(gone)
}
