package flamegraph

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"hash/fnv"
	"io"
	"strings"
)

// Format is a form that other tools read.
type Format string

// The formats of Export.
const (
	Folded     Format = "folded"     // a line for each stack: functions from the root, joined by ";", a space, the value
	Speedscope Format = "speedscope" // speedscope's own JSON, https://www.speedscope.app/file-format-schema.json
	Firefox    Format = "firefox"    // the processed profile format of the Firefox Profiler, version 47
	SVG        Format = "svg"        // a picture of its own: no script, names as tooltips
)

// Formats are all of them.
var Formats = []Format{Folded, Speedscope, Firefox, SVG}

// ContentType is the media type of a format.
func (f Format) ContentType() string {
	switch f {
	case Folded:
		return "text/plain; charset=utf-8"
	case SVG:
		return "image/svg+xml"
	}
	return "application/json"
}

// FileName is what a file of this format is usually called.
func (f Format) FileName() string {
	switch f {
	case Folded:
		return "profile.folded"
	case SVG:
		return "profile.svg"
	}
	return "profile." + string(f) + ".json"
}

// Export writes stacks in a format. The order is that of Build, so that equal stacks give equal bytes. The error is
// [ErrTooLarge], or that of ctx or w.
func Export(ctx context.Context, w io.Writer, s *Stacks, format Format, unit string) error {
	b := bufio.NewWriter(w)
	g, err := Build(ctx, s, Options{Unit: unit})
	if err != nil {
		return err
	}
	switch format {
	case Folded:
		err = g.folded(b)
	case Speedscope:
		if g.frames() > maxFrames {
			return ErrTooLarge
		}
		err = json.NewEncoder(b).Encode(g.speedscope())
	case Firefox:
		err = json.NewEncoder(b).Encode(g.firefox())
	case SVG:
		err = g.svg(b)
	default:
		err = fmt.Errorf("unknown format %q", format)
	}
	if err != nil {
		return err
	}
	return b.Flush()
}

// stacks calls f for each node that has a value of its own, with the nodes from below node 0 to it. The slice is
// only valid during the call.
func (g *Graph) stacks(f func(path []int, value int64)) {
	var path []int
	for i, d := range g.Depth {
		if i > 0 {
			path = append(path[:d-1], i)
		}
		if g.Self[i] > 0 {
			f(path, g.Self[i])
		}
	}
}

// maxFrames bounds what Speedscope makes in memory, where each stack has all its frames: some 300 MB.
const maxFrames = 20_000_000

// frames is how many frames the stacks have together.
func (g *Graph) frames() (sum int64) {
	for i, d := range g.Depth {
		if g.Self[i] > 0 {
			sum += int64(d)
		}
	}
	return sum
}

// oneFrame keeps what separates frames and lines out of names.
var oneFrame = strings.NewReplacer(";", ":", "\n", " ", "\r", " ")

func (g *Graph) folded(b *bufio.Writer) (err error) {
	g.stacks(func(path []int, value int64) {
		if err != nil {
			return // nothing more is taken
		}
		for i, node := range path {
			if i > 0 {
				b.WriteByte(';')
			}
			oneFrame.WriteString(b, g.Names[g.Name[node]])
		}
		_, err = fmt.Fprintf(b, " %d\n", value)
	})
	return err
}

type speedscopeFile struct {
	Schema string `json:"$schema"`
	Shared struct {
		Frames []speedscopeFrame `json:"frames"`
	} `json:"shared"`
	Profiles []speedscopeProfile `json:"profiles"`
	Exporter string              `json:"exporter"`
}

type speedscopeFrame struct {
	Name string `json:"name"`
	File string `json:"file,omitempty"`
}

type speedscopeProfile struct {
	Type       string    `json:"type"`
	Name       string    `json:"name"`
	Unit       string    `json:"unit"`
	StartValue int64     `json:"startValue"`
	EndValue   int64     `json:"endValue"`
	Samples    [][]int32 `json:"samples"` // outermost first
	Weights    []int64   `json:"weights"`
}

func (g *Graph) speedscope() *speedscopeFile {
	f := &speedscopeFile{Schema: "https://www.speedscope.app/file-format-schema.json", Exporter: "pilotlight"}
	for i, name := range g.Names {
		f.Shared.Frames = append(f.Shared.Frames, speedscopeFrame{name, g.FileNames[g.Files[i]]})
	}
	p := speedscopeProfile{Type: "sampled", Name: "pilotlight", Unit: "none", EndValue: g.Total, Samples: [][]int32{}, Weights: []int64{}}
	if g.Unit == "nanoseconds" || g.Unit == "bytes" {
		p.Unit = g.Unit
	}
	g.stacks(func(path []int, value int64) {
		sample := make([]int32, len(path))
		for i, node := range path {
			sample[i] = g.Name[node]
		}
		p.Samples = append(p.Samples, sample)
		p.Weights = append(p.Weights, value)
	})
	f.Profiles = []speedscopeProfile{p}
	return f
}

// firefox writes the samples one after the other: their times only keep them apart.
func (g *Graph) firefox() map[string]any {
	type table = map[string]any
	fill := func(n int, v any) []any {
		column := make([]any, n)
		for i := range column {
			column[i] = v
		}
		return column
	}
	n, names := len(g.Depth)-1, len(g.Names)
	prefix := make([]any, n) // nodes below node 0 are stacks, and each function has one frame
	frame := make([]int32, n)
	var last []int
	for i := 1; i <= n; i++ {
		d := int(g.Depth[i])
		last = append(last[:d-1], i-1)
		if d > 1 {
			prefix[i-1] = last[d-2]
		}
		frame[i-1] = g.Name[i]
	}
	perMS := 1.0
	weightType := "samples"
	if g.Unit == "nanoseconds" {
		perMS, weightType = 1e6, "tracing-ms"
	}
	var stack []any
	var weight, times []float64
	now := 0.0
	g.stacks(func(path []int, value int64) {
		if len(path) == 0 {
			return
		}
		stack = append(stack, path[len(path)-1]-1)
		weight = append(weight, float64(value)/perMS)
		times = append(times, now)
		now += float64(value) / perMS
	})
	index := make([]int, names)
	strs := make([]string, 0, names+len(g.FileNames))
	file := make([]any, names)
	for i, name := range g.Names {
		index[i] = i
		strs = append(strs, name)
		if f := g.Files[i]; f > 0 {
			file[i] = names + int(f)
		}
	}
	strs = append(strs, g.FileNames...)
	empty := []any{}
	thread := table{
		"name": "pilotlight", "processType": "default", "isMainThread": true, "pid": "0", "tid": 0,
		"processStartupTime": 0, "processShutdownTime": nil, "registerTime": 0, "unregisterTime": nil, "pausedRanges": empty,
		"samples":    table{"length": len(stack), "stack": stack, "time": times, "weight": weight, "weightType": weightType},
		"markers":    table{"length": 0, "data": empty, "name": empty, "startTime": empty, "endTime": empty, "phase": empty, "category": empty},
		"stackTable": table{"length": n, "frame": frame, "prefix": prefix, "category": fill(n, 0), "subcategory": fill(n, 0)},
		"frameTable": table{"length": names, "address": fill(names, -1), "inlineDepth": fill(names, 0), "category": fill(names, 0), "subcategory": fill(names, 0),
			"func": index, "nativeSymbol": fill(names, nil), "innerWindowID": fill(names, 0), "implementation": fill(names, nil), "line": fill(names, nil), "column": fill(names, nil)},
		"funcTable": table{"length": names, "name": index, "isJS": fill(names, false), "relevantForJS": fill(names, false), "resource": fill(names, -1),
			"fileName": file, "lineNumber": fill(names, nil), "columnNumber": fill(names, nil)},
		"resourceTable": table{"length": 0, "lib": empty, "name": empty, "host": empty, "type": empty},
		"nativeSymbols": table{"length": 0, "address": empty, "functionSize": empty, "libIndex": empty, "name": empty},
		"stringArray":   strs,
	}
	return table{
		"meta": table{
			"product": "pilotlight", "version": 28, "preprocessedProfileVersion": 47, "startTime": 0, "interval": 1, "processType": 0, "stackwalk": 1,
			"symbolicationNotSupported": true, "markerSchema": empty, "categories": []table{{"name": "Other", "color": "grey", "subcategories": []string{"Other"}}},
		},
		"libs": empty, "pages": empty, "threads": []table{thread},
	}
}

// The picture, in its own units.
const (
	svgWidth    = 1600
	svgRow      = 18
	svgThinnest = 0.4 // narrower frames are left out
	svgPerChar  = 6.6 // of a letter
)

func (g *Graph) svg(b *bufio.Writer) error {
	totals := make([]int64, len(g.Depth))
	parents := make([]int, len(g.Depth))
	var path []int
	deepest := int32(0)
	for i, d := range g.Depth {
		path = append(path[:d], i)
		if d > 0 {
			parents[i] = path[d-1]
		}
	}
	for i := len(totals) - 1; i >= 0; i-- {
		totals[i] += g.Self[i] + g.PrunedValue[i]
		if i > 0 {
			totals[parents[i]] += totals[i]
		}
	}
	scale := svgWidth / float64(max(totals[0], 1))
	for i, d := range g.Depth {
		if float64(totals[i])*scale >= svgThinnest {
			deepest = max(deepest, d)
		}
	}
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", svgWidth, (int(deepest)+1)*svgRow)
	next := make([]int64, len(totals)) // where the next child of a node begins
	for i, d := range g.Depth {
		start := int64(0)
		if i > 0 {
			start = next[parents[i]]
			next[parents[i]] += totals[i]
		}
		next[i] = start
		width := float64(totals[i]) * scale
		if width < svgThinnest {
			continue
		}
		name := g.Names[g.Name[i]]
		x, y := float64(start)*scale, int(d)*svgRow
		b.WriteString("<g><title>")
		if err := xml.EscapeText(b, []byte(fmt.Sprintf("%s, %.2f %%", name, 100*float64(totals[i])/float64(max(totals[0], 1))))); err != nil {
			return err
		}
		fmt.Fprintf(b, `</title><rect x="%.2f" y="%d" width="%.2f" height="%d" fill="%s"/>`, x, y, max(width-0.5, 0.2), svgRow-1, svgColor(g.FileNames[g.Files[g.Name[i]]]))
		if letters := int((width - 8) / svgPerChar); letters >= 3 {
			label := []rune(name)
			if len(label) > letters {
				label = append(label[:letters-1], '…')
			}
			fmt.Fprintf(b, `<text x="%.2f" y="%d">`, x+4, y+svgRow-5)
			if err := xml.EscapeText(b, []byte(string(label))); err != nil {
				return err
			}
			b.WriteString("</text>")
		}
		b.WriteString("</g>\n")
	}
	_, err := b.WriteString("</svg>\n")
	return err
}

// svgColor is a light hue for each binary.
func svgColor(binary string) string {
	if binary == "" {
		return "#e4e2df"
	}
	h := fnv.New32a()
	h.Write([]byte(binary))
	return fmt.Sprintf("hsl(%d,55%%,80%%)", h.Sum32()%360)
}
