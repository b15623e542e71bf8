// Command testsummary reads `go test -json` on standard input, shows it as `go test` would, and ends with one
// line that says how many tests ran, how many of them on the real kernel and in the real browser. It fails if
// a test failed, if a suite ran no test at all, or, with REQUIRE_ALL=1, if a test was skipped.
//
// Tests on the real kernel are those named TestKernel*, in the real browser TestBrowser*. What the UI's own runners printed is read from the
// files given as -ui and -browser; each ends in a line that says "N passed".
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

func main() {
	ui := flag.String("ui", "", "file with the output of the UI's unit tests")
	browser := flag.String("browser", "", "file with the output of the UI's browser tests")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *ui, *browser, os.Getenv("REQUIRE_ALL") == "1"); err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, ui, browser string, requireAll bool) error {
	golang, err := readGo(in, out)
	if err != nil {
		return err
	}
	unit, err := readUI(ui)
	if err != nil {
		return err
	}
	inBrowser, err := readUI(browser)
	if err != nil {
		return err
	}
	all := golang.all
	all.add(unit)
	all.add(inBrowser)
	fmt.Fprintf(out, "\n%s: %d in Go, of which %d on the real kernel; %d of the UI, and %d in the real browser\n",
		all, golang.all.passed, golang.kernel.passed, unit.passed, inBrowser.passed+golang.browser.passed)
	switch {
	case all.failed > 0:
		return fmt.Errorf("%d tests failed", all.failed)
	case all.skipped > 0 && requireAll:
		return fmt.Errorf("%d tests were skipped, and REQUIRE_ALL=1 allows none", all.skipped)
	case golang.all.passed == 0:
		return errors.New("no Go test ran")
	}
	return nil
}

type counts struct{ passed, failed, skipped int }

// goCounts are those of Go tests; kernel and browser are contained in all.
type goCounts struct{ all, kernel, browser counts }

func (c *counts) add(d counts) {
	c.passed += d.passed
	c.failed += d.failed
	c.skipped += d.skipped
}

func (c counts) String() string {
	return fmt.Sprintf("%d tests passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}

// event is a line of `go test -json`, as `go doc test2json` describes it.
type event struct {
	Action, Package, Test, Output string
}

type testKey struct{ pkg, test string }

// readGo counts the tests of a `go test -json` stream; a test with subtests counts as its subtests and itself.
// It prints the lines of packages, and of tests only when they fail or are skipped.
func readGo(in io.Reader, out io.Writer) (goCounts, error) {
	var c goCounts
	output := make(map[testKey][]string)
	failed := make(map[string]bool)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if !strings.HasPrefix(lines.Text(), "{") {
			// What the go command itself has to say is not JSON.
			fmt.Fprintln(out, lines.Text())
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return c, fmt.Errorf("read go test -json: line %q: %w", lines.Text(), err)
		}
		key := testKey{e.Package, e.Test}
		switch {
		case e.Action == "build-output", e.Action == "output" && e.Test == "":
			if e.Output != "PASS\n" {
				fmt.Fprint(out, e.Output)
			}
		case e.Action == "output":
			output[key] = append(output[key], e.Output)
		case e.Action == "fail" && e.Test == "":
			// Tests that a crash or the time limit took along have no end of their own.
			for k, text := range output {
				if k.pkg == e.Package {
					fmt.Fprint(out, strings.Join(text, ""))
				}
			}
			// A package also fails without a failing test: its build, its TestMain.
			if !failed[e.Package] {
				c.all.failed++
			}
		case e.Test != "" && !strings.HasPrefix(e.Test, "Benchmark"):
			one := counts{}
			switch e.Action {
			case "pass":
				one.passed++
			case "fail":
				one.failed++
				failed[e.Package] = true
			case "skip":
				one.skipped++
			default:
				continue
			}
			if e.Action != "pass" {
				fmt.Fprint(out, strings.Join(output[key], ""))
			}
			delete(output, key)
			c.all.add(one)
			switch {
			case strings.HasPrefix(e.Test, "TestKernel"):
				c.kernel.add(one)
			case strings.HasPrefix(e.Test, "TestBrowser"):
				c.browser.add(one)
			}
		}
	}
	return c, lines.Err()
}

var uiCounts = regexp.MustCompile(`(\d+) (passed|failed|skipped|todo)`)

// readUI takes the counts from the last line of a runner's output that has any. No file name, no tests.
func readUI(path string) (counts, error) {
	var c counts
	if path == "" {
		return c, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	for line := range strings.Lines(string(text)) {
		matches := uiCounts.FindAllStringSubmatch(line, -1)
		if matches == nil {
			continue
		}
		c = counts{}
		for _, m := range matches {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				return c, fmt.Errorf("%s: %q: %w", path, line, err)
			}
			switch m[2] {
			case "passed":
				c.passed += n
			case "failed":
				c.failed += n
			default:
				c.skipped += n
			}
		}
	}
	if c.passed+c.failed == 0 {
		return c, fmt.Errorf("%s says of no test that it ran", path)
	}
	return c, nil
}
