package config

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long after a change the file is taken to be as it was meant:
// editors, and Kubernetes where it is in a volume, change it in several steps.
const settle = time.Second

// Watch calls changed when the file at path may have become another, at most once
// a second, until ctx is done; the first time a second after it has begun, as the
// file may have changed since it was read. It looks at the directory of the file
// and at that where links lead, so that a file that is replaced is noticed, and one
// that is yet to come. What else is in these directories leads to calls too.
func Watch(ctx context.Context, path string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(path)); err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	addTarget(w, path)
	timer := time.NewTimer(settle)
	defer timer.Stop()
	running := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			running = false
			addTarget(w, path) // links may lead elsewhere now
			changed()
			continue
		case <-w.Events:
		case err := <-w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watch %s: %w", path, err)
			}
		}
		if !running {
			running = true
			timer.Reset(settle)
		}
	}
}

// addTarget watches where the links at path lead. If they lead nowhere, the
// directory that is watched already tells when they do.
func addTarget(w *fsnotify.Watcher, path string) {
	if target, err := filepath.EvalSymlinks(path); err == nil && filepath.Dir(target) != filepath.Dir(path) {
		if err := w.Add(filepath.Dir(target)); err != nil {
			return // it went in this moment, of which there is word
		}
	}
}
