// Package tools_test checks what is beside it with modules that the program must not depend on.
package tools_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	promql "github.com/prometheus/prometheus/promql/parser"
)

// exported returns the names of all series that the program exports: those that its sources register, with what
// Prometheus makes of a histogram, those of the Go client, and `up`, which is Prometheus's own.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{"up": true}
	for _, root := range []string{"../../cmd", "../../bpf", "../../profilestore", "../../symbolize", "../../unwind"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return filepath.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err == nil {
				addMetrics(file, names)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		names[f.GetName()] = true
	}
	return names
}

// addMetrics adds the names of metrics in a file: each is written out once, where it is declared.
func addMetrics(file *ast.File, names map[string]bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if s, ok := n.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "HistogramOpts" {
				for _, name := range metricLiterals(n) {
					names[name+"_bucket"], names[name+"_count"], names[name+"_sum"] = true, true, true
				}
				return false
			}
		case *ast.BasicLit:
			for _, name := range metricLiterals(n) {
				names[name] = true
			}
		}
		return true
	})
}

func metricLiterals(n ast.Node) []string {
	var found []string
	ast.Inspect(n, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if s, err := strconv.Unquote(l.Value); err == nil && strings.HasPrefix(s, "pilotlight_") {
				found = append(found, s)
			}
		}
		return true
	})
	return found
}

// checkQuery parses a query, which it returns, and holds that the program exports each metric in it.
func checkQuery(t *testing.T, where, query string, names map[string]bool) promql.Expr {
	t.Helper()
	expr, err := promql.NewParser(promql.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return nil
	}
	promql.Inspect(expr, func(node promql.Node, _ []promql.Node) error {
		if s, ok := node.(*promql.VectorSelector); ok && !names[s.Name] {
			t.Errorf("%s: nothing exports %s", where, s.Name)
		}
		return nil
	})
	return expr
}

// checkRule holds that a rule says which machine it is about, and is not of one scrape alone when it is about a span.
func checkRule(t *testing.T, r rulefmt.Rule, expr promql.Expr) {
	t.Helper()
	if !strings.Contains(r.Annotations["summary"], "$labels.instance") {
		t.Errorf("%s: the summary names no instance", r.Alert)
	}
	if expr == nil {
		return
	}
	promql.Inspect(expr, func(node promql.Node, _ []promql.Node) error {
		switch n := node.(type) {
		case *promql.AggregateExpr:
			if n.Without == slices.Contains(n.Grouping, "instance") {
				t.Errorf("%s: %s has no instance any more", r.Alert, n)
			}
		case *promql.Call:
			if strings.HasSuffix(n.Func.Name, "_over_time") && r.For == 0 {
				t.Errorf("%s: %s may be that of one scrape: say how long with for", r.Alert, n)
			}
		}
		return nil
	})
}

// TestAlerts reads the rules as Prometheus does, templates included.
func TestAlerts(t *testing.T) {
	text, err := os.ReadFile("../monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, promql.NewParser(promql.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	names, seen := exported(t), make(map[string]bool)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || seen[r.Alert] {
				t.Errorf("a rule without a name of its own: %q", r.Alert)
			}
			seen[r.Alert] = true
			checkRule(t, r, checkQuery(t, r.Alert, r.Expr, names))
			if !slices.Contains([]string{"warning", "critical"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: labels %v, annotations %v: want a severity, a summary and a description", r.Alert, r.Labels, r.Annotations)
			}
		}
	}
}

// TestDashboard holds that Grafana can draw each panel: its queries parse and ask for what there is.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		UID, Title string
		Panels     []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.UID == "" || dashboard.Title == "" || len(dashboard.Panels) == 0 {
		t.Errorf("%+v", dashboard)
	}
	names, ids := exported(t), make(map[int]bool)
	var taken [][4]int
	for _, p := range dashboard.Panels {
		if p.ID == 0 || ids[p.ID] {
			t.Errorf("%s: id %d is another panel's", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			// Grafana fills them in.
			query := strings.NewReplacer("$__rate_interval", "5m").Replace(target.Expr)
			checkQuery(t, p.Title, query, names)
		}
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s: place %+v", p.Title, g)
		}
		for _, o := range taken {
			if g.X < o[0]+o[2] && o[0] < g.X+g.W && g.Y < o[1]+o[3] && o[1] < g.Y+g.H {
				t.Errorf("%s lies on another panel", p.Title)
			}
		}
		taken = append(taken, [4]int{g.X, g.Y, g.W, g.H})
	}
}
