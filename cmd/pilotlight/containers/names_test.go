package containers

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// asker is an Asker of tests: it knows some containers, and notes when it was asked for which.
type asker struct {
	known map[string]string // name by ID
	err   error
	hang  bool
	asked []string // "0.2s a b"
	start time.Time
}

func (a *asker) ask(ctx context.Context, ids []string) (Answer, error) {
	a.asked = append(a.asked, fmt.Sprintf("%v %v", time.Since(a.start), ids))
	if a.hang {
		<-ctx.Done()
		return Answer{}, ctx.Err()
	}
	answer := Answer{CPU: time.Millisecond}
	for _, id := range ids {
		if name := a.known[id]; name != "" {
			answer.Containers = append(answer.Containers, Container{ID: id, Name: name})
		}
	}
	return answer, a.err
}

// run runs Names in a bubble with a clock of its own.
func run(t *testing.T, a *asker, test func(t *testing.T, n *Names)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a.start = time.Now()
		n, err := NewNames(a.ask, Options{Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.Run(ctx)
		}()
		test(t, n)
		cancel()
		<-done
	})
}

func (a *asker) check(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}
}

// TestNames: nobody waits for a name; those that are wanted together are asked for together, once.
func TestNames(t *testing.T) {
	a := &asker{known: map[string]string{"a": "web", "b": "db"}}
	run(t, a, func(t *testing.T, n *Names) {
		time.Sleep(time.Second)
		for range 3 {
			for _, id := range []string{"a", "b", ""} {
				if c := n.Get(id); c != nil {
					t.Errorf("%q is known as %+v before anybody was asked", id, c)
				}
			}
		}
		time.Sleep(time.Minute)
		first := n.Get("a")
		if first == nil || first.Name != "web" || n.Get("b").Name != "db" || n.Get("a") != first {
			t.Errorf("got %+v, %+v", first, n.Get("b"))
		}
		a.check(t, "1.2s [a b]")
		if n.CPU() != time.Millisecond {
			t.Errorf("CPU %v", n.CPU())
		}
		for _, step := range []struct{ name, want string }{{"web", "web"}, {"renamed", "renamed"}, {"", ""}} {
			before := n.Get("a")
			a.known["a"] = step.name
			n.Refresh()
			if c := n.Get("a"); c != before {
				t.Errorf("%+v is known before anybody answered, want %+v", c, before)
			}
			time.Sleep(time.Minute)
			got := ""
			if c := n.Get("a"); c != nil {
				got = c.Name
			}
			if got != step.want || step.name == "web" && n.Get("a") != first {
				t.Errorf("after Refresh the name is %q, want %q", got, step.want)
			}
		}
	})
}

// TestNamesUnknown: one that nobody knows is asked for less and less often, and only while somebody wants to know.
func TestNamesUnknown(t *testing.T) {
	a := &asker{}
	run(t, a, func(t *testing.T, n *Names) {
		for range 60 { // windows
			n.Get("x")
			time.Sleep(10 * time.Second)
		}
		a.check(t, "200ms [x]", "10.2s [x]", "30.2s [x]", "1m0.2s [x]", "1m50.2s [x]", "3m20.2s [x]", "6m10.2s [x]")
		time.Sleep(time.Hour)
		a.known = map[string]string{"x": "late"}
		n.Get("x")
		time.Sleep(2 * time.Minute)
		if c := n.Get("x"); c == nil || c.Name != "late" {
			t.Errorf("got %+v", c)
		}
		if len(a.asked) != 8 {
			t.Errorf("asked %d times, want 8: nobody wanted to know in between", len(a.asked))
		}
	})
}

// TestNamesRenamed: a container that is renamed has its new name some minutes later, and all are asked for at once.
func TestNamesRenamed(t *testing.T) {
	a := &asker{known: map[string]string{"a": "web", "b": "db"}}
	run(t, a, func(t *testing.T, n *Names) {
		window := func() {
			n.Get("a")
			n.Get("b")
			time.Sleep(10 * time.Second)
		}
		window()
		synctest.Wait()
		a.known["a"] = "renamed"
		for range 60 {
			window()
		}
		window()
		if c := n.Get("a"); c == nil || c.Name != "renamed" {
			t.Errorf("got %+v", c)
		}
		a.check(t, "200ms [a b]", "10m0.2s [a b]")
		// One of which a runtime does not tell for a while stays what it was.
		a.err, a.known = errTest, nil
		for range 120 {
			window()
		}
		if c := n.Get("a"); c == nil || c.Name != "renamed" {
			t.Errorf("got %+v while the runtime is away", c)
		}
		time.Sleep(time.Hour)
		if asked := len(a.asked); asked > 12 {
			t.Errorf("asked %d times in 20 minutes without an answer, and an hour in which nobody wanted to know", asked)
		}
	})
}

// TestNamesForged: cgroups that only look like containers do not keep the agent busy.
func TestNamesForged(t *testing.T) {
	a := &asker{}
	run(t, a, func(t *testing.T, n *Names) {
		for i := range 36_000 { // an hour
			n.Get(fmt.Sprint(i))
			time.Sleep(100 * time.Millisecond)
		}
		if len(a.asked) < 60 || len(a.asked) > 70 {
			t.Errorf("asked %d times in an hour, want about once a minute", len(a.asked))
		}
		if len(n.remembered) > maxRemembered {
			t.Errorf("%d are remembered, want at most %d", len(n.remembered), maxRemembered)
		}
	})
}

// TestNamesFailing: a runtime that does not answer is asked again; what it said before it failed counts.
func TestNamesFailing(t *testing.T) {
	a := &asker{err: errTest, known: map[string]string{"a": "web"}}
	run(t, a, func(t *testing.T, n *Names) {
		n.Get("a")
		n.Get("b")
		time.Sleep(5 * time.Second)
		if c := n.Get("a"); c == nil || c.Name != "web" {
			t.Errorf("got %+v", c)
		}
		a.err, a.known["b"] = nil, "db"
		time.Sleep(time.Second)
		n.Get("b")
		time.Sleep(time.Second)
		if c := n.Get("b"); c == nil || c.Name != "db" {
			t.Errorf("got %+v", c)
		}
	})
}

// TestNamesHanging: one that hangs keeps nobody but Run waiting.
func TestNamesHanging(t *testing.T) {
	a := &asker{hang: true}
	run(t, a, func(t *testing.T, n *Names) {
		n.Get("a")
		time.Sleep(time.Minute)
		for i := range 2 * maxRemembered {
			n.Get(fmt.Sprint(i))
		}
		a.check(t, "200ms [a]")
		if len(n.wanted) > maxRemembered || len(n.remembered) > maxRemembered {
			t.Errorf("%d wanted, %d remembered", len(n.wanted), len(n.remembered))
		}
	})
}

// BenchmarkNamesForged looks for containers that nobody has looked for, of which there are too many.
func BenchmarkNamesForged(b *testing.B) {
	n, err := NewNames(nil, Options{})
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		n.Get(fmt.Sprintf("%064x", i))
		i++
	}
}

// TestNoNames: without Names there are none.
func TestNoNames(t *testing.T) {
	var n *Names
	if n.Get("a") != nil || n.CPU() != 0 {
		t.Error("a nil Names knows something")
	}
}
