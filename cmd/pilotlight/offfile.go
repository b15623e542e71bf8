package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// watchOffFile has sampling off while a file is there: it calls set when that appears, or is there already, and when it
// goes. Its directory is watched, and has to be there; where it is not, or others' alone, the log says so.
func watchOffFile(path string, set func(on bool), log *slog.Logger) (stop func(), err error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	err = watcher.Add(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		log.Warn("sampling cannot be switched off by a file: its directory cannot be watched", "path", path, "err", err)
		return func() {}, watcher.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", path, err), watcher.Close())
	}
	off := offSwitch{path: path, set: set, log: log}
	off.look()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case event, ok := <-watcher.Events:
				if !ok {
					return
				}
				if filepath.Base(event.Name) == filepath.Base(path) { // of the one directory that is watched
					off.look()
				}
			case err, ok := <-watcher.Errors:
				if !ok {
					return
				}
				log.Warn("watch off file", "err", err) // more happened than it could tell
				off.look()
			}
		}
	}()
	return func() {
		if err := watcher.Close(); err != nil {
			log.Warn("watch off file", "err", err)
		}
		<-done
	}, nil
}

// offSwitch is a switch that is off while a file is there.
type offSwitch struct {
	path string
	set  func(on bool)
	log  *slog.Logger
	off  bool
}

func (s *offSwitch) look() {
	_, err := os.Lstat(s.path)
	off := !errors.Is(err, fs.ErrNotExist)
	if off == s.off {
		return
	}
	s.off = off
	if off {
		s.log.Warn("sampling is off: the file is there", "path", s.path)
	} else {
		s.log.Info("sampling is on again", "path", s.path)
	}
	s.set(!off)
}
