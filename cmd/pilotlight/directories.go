package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"pilotlight/cmd/pilotlight/agent"
)

// otherUser returns who runs what needs no privileges, and the agent once it samples: the user pilotlight if there is
// one, else nobody; nil, the same user, if this process may not choose.
func otherUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 || !mayChangeUser() {
		return nil, nil
	}
	for _, name := range []string{"pilotlight", "nobody"} {
		u, err := user.Lookup(name)
		var unknown user.UnknownUserError
		if errors.As(err, &unknown) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up user %s: %w", name, err)
		}
		uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uerr, gerr); err != nil {
			return nil, fmt.Errorf("look up user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	const overflow = 65534 // what the kernel calls users it cannot name
	return &syscall.Credential{Uid: overflow, Gid: overflow}, nil
}

// dataDir returns the data directory: the one that was asked for, or the default.
func dataDir(asked string) (string, error) {
	if asked != "" {
		return filepath.Abs(asked)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/pilotlight", nil
	}
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "pilotlight"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a data directory: %w: name one with --data", err)
	}
	return filepath.Join(home, ".local", "state", "pilotlight"), nil
}

// cacheDir returns the cache directory: the one that was asked for, or the default.
func cacheDir(asked string) (string, error) {
	if asked != "" {
		return filepath.Abs(asked)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/pilotlight", nil
	}
	dir, err := os.UserCacheDir() // XDG_CACHE_HOME, or ~/.cache
	if err != nil {
		return "", fmt.Errorf("find a cache directory: %w: name one with --cache", err)
	}
	return filepath.Join(dir, "pilotlight"), nil
}

// makeDataDir makes the data directory if it is not there and gives it to owner.
// One that is there is left as it is: it may be another program's.
func makeDataDir(dir string, owner *syscall.Credential) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make data directory: %w: name another with --data", err)
	}
	err := os.Mkdir(dir, 0o750)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && owner != nil {
		err = os.Lchown(dir, int(owner.Uid), int(owner.Gid)) // not where a link leads that took its place
	}
	if err != nil {
		return fmt.Errorf("make data directory: %w: name another with --data", err)
	}
	return nil
}

// giveCache gives owner what there is in the cache directory that is the agent's, to use it and to make more. An agent
// without a cache directory is as good, only slower.
func giveCache(dir string, owner *syscall.Credential, g *globals) {
	if owner == nil {
		return
	}
	if err := agent.GiveCacheDir(dir, int(owner.Uid), int(owner.Gid), debuginfodName); err != nil {
		g.log.Warn("cache directory stays another user's: name another with --cache", "path", dir, "err", err)
	}
}
