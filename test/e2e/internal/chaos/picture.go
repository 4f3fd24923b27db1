package chaos

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The files of a run, in Config.Dir.
const (
	tableFile    = "table.txt"
	timelineFile = "timeline" // .svg and .png
)

// write writes the table and the timeline.
func (r Report) write() error {
	if err := os.WriteFile(filepath.Join(r.Config.Dir, tableFile), []byte(r.String()), 0o644); err != nil {
		return err
	}
	p, err := r.timeline()
	if err != nil {
		return err
	}
	// A minute takes four centimetres, within what fits a page and what shows anything.
	width := min(max(vg.Length(r.Lasted.Minutes())*4*vg.Centimeter, 24*vg.Centimeter), 48*vg.Centimeter)
	for _, format := range []string{"svg", "png"} {
		if err := save(p, width, 9*vg.Centimeter, format, filepath.Join(r.Config.Dir, timelineFile+"."+format)); err != nil {
			return err
		}
	}
	return nil
}

// save draws on white, with a margin: what shows the file may be dark.
func save(p *plot.Plot, width, height vg.Length, format, file string) error {
	canvas, err := draw.NewFormattedCanvas(width, height, format)
	if err != nil {
		return err
	}
	c := draw.New(canvas)
	c.SetColor(color.White)
	c.Fill(c.Path())
	const margin = 8
	p.Draw(draw.Crop(c, margin, -2*margin, margin, -margin))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return err
	}
	// Where an SVG is shown, the font need not be.
	drawn := bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,sans-serif"))
	return os.WriteFile(file, drawn, 0o644)
}

// colors of the kinds of faults, in the order of kinds.
var colors = []color.NRGBA{
	{0xe4, 0x57, 0x56, 0xff},
	{0xf5, 0x8b, 0x1f, 0xff},
	{0xed, 0xc9, 0x48, 0xff},
	{0x7b, 0x5c, 0xb5, 0xff},
	{0xb0, 0x7a, 0xa1, 0xff},
	{0x4e, 0x79, 0xa7, 0xff},
	{0x76, 0xb7, 0xb2, 0xff},
	{0x5f, 0xa8, 0xe0, 0xff},
	{0x8c, 0x6d, 0x46, 0xff},
	{0x59, 0xa1, 0x4f, 0xff},
}

// sans is the font of all text.
func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// timeline draws acknowledged and failed calls per second, and a band for each fault.
func (r Report) timeline() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("Calls per second under faults: %d nodes, %s, seed %d", r.Config.Nodes, r.Lasted.Round(time.Second), r.Config.Seed)
	p.Title.TextStyle.Font = sans(11)
	p.Title.TextStyle.XAlign = text.XCenter
	p.Title.Padding = 10
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Min, axis.Padding, axis.Tick.Label.Font = 0, 0, sans(9)
		axis.Color, axis.Tick.Color = color.Gray{0x80}, color.Gray{0x80}
	}
	acked, failed := line(r.Acked, r.Step), line(r.Failed, r.Step)
	for _, at := range acked {
		p.Y.Max = max(p.Y.Max, at.Y)
	}
	labels := p.Y.Max * 1.03
	p.X.Max, p.Y.Max = r.Lasted.Seconds(), p.Y.Max*1.3 // room for the labels
	p.X.Tick.Marker = ticks{atMost: 12, name: func(at float64) string { return fmt.Sprintf("%d:%02d", int(at)/60, int(at)%60) }}
	p.Y.Tick.Marker = ticks{atMost: 6, name: func(at float64) string { return fmt.Sprintf("%.0f", at) }}
	p.Add(bands{r, labels})
	for _, l := range []struct {
		points plotter.XYs
		color  color.Color
		name   string
	}{
		{acked, color.RGBA{0x1b, 0x5e, 0x20, 0xff}, "acknowledged"},
		{failed, color.RGBA{0xc6, 0x28, 0x28, 0xff}, "failed"},
	} {
		drawn, err := plotter.NewLine(l.points)
		if err != nil {
			return nil, err
		}
		drawn.Color, drawn.Width = l.color, vg.Points(0.9)
		p.Add(drawn)
		p.Legend.Add(l.name, drawn)
	}
	p.Legend.TextStyle.Font = sans(9)
	p.Legend.Top, p.Legend.YOffs = true, 22 // beside the title
	return p, nil
}

// ticks are at round numbers of units, or of seconds.
type ticks struct {
	atMost int
	name   func(float64) string
}

// Ticks implements plot.Ticker.
func (t ticks) Ticks(least, most float64) []plot.Tick {
	steps := []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 500, 1000, 2000, 5000, 10000}
	i := 0
	for i < len(steps)-1 && (most-least)/steps[i] > float64(t.atMost) {
		i++
	}
	var out []plot.Tick
	for at := least; at <= most; at += steps[i] {
		out = append(out, plot.Tick{Value: at, Label: t.name(at)})
	}
	return out
}

func line(counts []int, step time.Duration) plotter.XYs {
	// The last step is not a whole one.
	points := make(plotter.XYs, max(1, len(counts)-1))
	for i := range points {
		points[i].X = (time.Duration(i)*step + step/2).Seconds()
		points[i].Y = float64(counts[i]) / step.Seconds()
	}
	return points
}

// bands are the times of the faults, from the fault until every caller was answered again, each with
// its name above.
type bands struct {
	Report

	top float64
}

// Plot implements plot.Plotter.
func (b bands) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	style := text.Style{
		Font: sans(8), Handler: plot.DefaultTextHandler, Rotation: math.Pi / 2,
		XAlign: text.XLeft, YAlign: text.YCenter,
	}
	for _, w := range b.Windows {
		kind := slices.IndexFunc(kinds, func(k kind) bool { return k.name == w.Kind })
		fill := colors[kind%len(colors)]
		left, right := x(w.Began.Seconds()), x(w.End.Seconds())
		style.Color = fill
		c.FillText(style, vg.Point{X: (left + right) / 2, Y: y(b.top) + 3}, w.Kind)
		fill.A = 0x48
		c.FillPolygon(fill, []vg.Point{{X: left, Y: y(0)}, {X: right, Y: y(0)}, {X: right, Y: y(b.top)}, {X: left, Y: y(b.top)}})
	}
}
