package analysis

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/seakeep/seakeep/rollout/verdict"
)

func TestReadKept(t *testing.T) {
	const good = `{"cluster":"c","at":"2026-11-26T09:00:00Z"}` + "\n"
	pack := func(text string) string {
		var into bytes.Buffer
		zip := gzip.NewWriter(&into)
		if _, err := zip.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := zip.Close(); err != nil {
			t.Fatal(err)
		}
		return `{"packed":"` + base64.StdEncoding.EncodeToString(into.Bytes()) + `"}` + "\n"
	}
	long := `{"cluster":"` + strings.Repeat("c", 2*maxKeptLine) + `","at":"2026-11-26T09:00:00Z"}`
	for name, tc := range map[string]struct {
		text string
		want int    // lines read
		err  string // "" none
	}{
		"nothing":                        {"", 0, ""},
		"lines":                          {good + good, 2, ""},
		"a torn last line":               {good + good[:20], 1, ""},
		"one that lacks its end only":    {good + strings.TrimSuffix(good, "\n"), 1, ""},
		"a torn line of any length":      {good + long, 1, ""},
		"zeros after a power cut":        {good + strings.Repeat("\x00", 9000), 1, ""},
		"a torn line in the midst":       {good + good[:20] + good, 0, "line 2: "},
		"a long line":                    {good + long + "\n", 0, "line 2: it is longer than 131072 bytes"},
		"an empty line":                  {good + "\n" + good, 0, "line 2: it is empty"},
		"an unknown field":               {`{"cluster":"c","at":"2026-11-26T09:00:00Z","colour":"red"}` + "\n", 0, `line 1: json: unknown field "colour"`},
		"two readings in a line":         {strings.TrimSuffix(good, "\n") + good, 0, "line 1: something follows"},
		"a bracket too many":             {strings.TrimSuffix(good, "\n") + "}\n", 0, "line 1: something follows"},
		"no cluster":                     {`{"at":"2026-11-26T09:00:00Z"}` + "\n", 0, "line 1: cluster must be a"},
		"no time":                        {`{"cluster":"c"}` + "\n", 0, "line 1: at must be a time"},
		"of before the change and after": {`{"cluster":"c","at":"2026-11-26T09:00:00Z","exposedAt":"2026-11-26T09:00:01Z"}` + "\n", 0, "line 1: exposedAt must not be after at"},
		"more answers than questions":    {`{"cluster":"c","at":"2026-11-26T09:00:00Z","asked":{"dns":{"asked":1,"answered":2}}}` + "\n", 0, `line 1: asked "dns"`},
		"a time without bounds":          {`{"cluster":"c","at":"2026-11-26T09:00:00Z","asked":{"dns":{"asked":1,"answered":1,"p90":1e300}}}` + "\n", 0, `line 1: asked "dns"`},
		"more late than there are":       {`{"cluster":"c","at":"2026-11-26T09:00:00Z","pods":{"update":{"pods":1,"late":2},"stable":{"pods":0}}}` + "\n", 0, "line 1: pods:"},
		"a time in no year":              {`{"cluster":"c","at":"9999-12-31T23:59:59-23:59"}` + "\n", 0, "line 1: at must be a time"},
		"an unknown question":            {`{"cluster":"c","at":"2026-11-26T09:00:00Z","asked":{"dns/10.0.0.1:53":{"asked":1,"answered":1}}}` + "\n", 0, "line 1: asked: "},
		"no name":                        {`{"cluster":"c","at":"2026-11-26T09:00:00Z","controlPlane":{"":1}}` + "\n", 0, "line 1: controlPlane: "},
		"packed ones beside others":      {good + pack(good+good+good) + good, 5, ""},
		"packed ones that are wrong":     {good + pack(good+"{}\n"), 0, "line 2: packed: reading 2: cluster must be a"},
		"packed ones that are torn":      {pack(good + good[:20]), 0, "line 1: packed: it does not end with"},
		"packed ones of none":            {pack(""), 0, "line 1: packed: it does not end with"},
		"packed ones in packed ones":     {pack(pack(good)), 0, `line 1: packed: reading 1: json: unknown field "packed"`},
		"more than a line may hold":      {pack(strings.Repeat(" ", maxUnpacked) + good), 0, "line 1: packed: it holds more than 131072 bytes"},
		"what is not packed":             {`{"packed":"bm90IGd6aXA="}` + "\n", 0, "line 1: packed: "},
		"packed ones that are one":       {strings.Replace(good, "{", `{"packed":"bm90IGd6aXA=",`, 1), 0, "line 1: packed readings have"},
		"no number":                      {`{"cluster":"c","at":"2026-11-26T09:00:00Z","controlPlane":{"cpu":NaN}}` + "\n", 0, "line 1: invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			kept, err := readKept(strings.NewReader(tc.text))
			switch {
			case (err == nil) != (tc.err == "") || err != nil && !strings.HasPrefix(err.Error(), tc.err):
				t.Errorf("got %v, want %q", err, tc.err)
			case len(kept) != tc.want:
				t.Errorf("read %d lines, want %d", len(kept), tc.want)
			}
		})
	}
}

// What is judged of a reading is the same after it was kept.
func TestKeptIsWhatWasMeasured(t *testing.T) {
	at := time.Unix(1.7e9, 123456789)
	took := func(all ...int) (d []time.Duration) {
		for _, ms := range all {
			d = append(d, time.Duration(ms)*time.Millisecond)
		}
		return d
	}
	r := reading{at: at, levels: map[string]float64{checkCPU: 0.25, checkWatches: 300}, asked: map[string]verdict.Asked{
		verdict.CheckReady:        {Asked: 3, Answered: 3},
		checkDNS + "/10.0.0.1:53": {Asked: 5, Answered: 5, Took: took(1, 2, 3, 4, 5)},
		checkDNS + "/10.0.0.2:53": {Asked: 5, Answered: 1, Took: took(70)},
		checkProbes + probeList:   {Asked: 3, Answered: 0},
	}, pods: &verdict.Pods{Update: verdict.PodCount{Pods: 3, Late: 1, Restarts: 2, PodHours: 0.5}}}
	line, err := r.keep("c", at).line()
	if err != nil {
		t.Fatal(err)
	}
	all, err := readKept(bytes.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	got := all[0].reading()
	if !got.kept || !got.at.Equal(at) || !all[0].ExposedAt.Equal(at) {
		t.Errorf("read %+v", all[0])
	}
	if diff := cmp.Diff(r.levels, got.levels); diff != "" {
		t.Errorf("levels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(r.pods, got.pods); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	for _, check := range []string{checkDNS, checkProbes + probeList} {
		if diff := cmp.Diff(shareOf(r, check), shareOf(got, check)); diff != "" {
			t.Errorf("%s: the share answered (-want +got):\n%s", check, diff)
		}
		want, wantOK := r.level(check + latencyOf)
		if v, ok := got.level(check + latencyOf); v != want || ok != wantOK {
			t.Errorf("%s takes %v (%t), want %v (%t)", check, v, ok, want, wantOK)
		}
	}
}

// What is packed is read again, in its order, in lines that are short enough; and much shorter than one line each.
func TestPackedIsWhatWasKept(t *testing.T) {
	var all []keptReading
	plain := 0
	at := time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
	for i := range 3*packedReadings + 1 {
		r := reading{at: at.Add(time.Duration(i) * 30 * time.Second), levels: map[string]float64{}, asked: map[string]verdict.Asked{}}
		for _, check := range []string{checkCPU, checkMemory, checkWatches, checkReadLatency, checkWriteLatency, checkRejected} {
			r.levels[check] = 1 / float64(i+2)
		}
		for _, check := range []string{checkDNS, checkProbes + probeList} {
			r.asked[check] = verdict.Asked{Asked: 3, Answered: 3, Took: []time.Duration{time.Duration(i) * time.Millisecond}}
		}
		k := r.keep("cluster-1", at)
		line, err := k.line()
		if err != nil {
			t.Fatal(err)
		}
		all, plain = append(all, k), plain+len(line)
	}
	lines, err := packed(all)
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Join(lines, nil)
	if len(lines) != 4 || len(text) > plain/3 {
		t.Errorf("%d readings of %d bytes are %d lines of %d bytes", len(all), plain, len(lines), len(text))
	}
	again, err := readKept(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, again); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	// What does not shrink makes more lines, not longer ones.
	random := rand.New(rand.NewPCG(1, 1))
	all = all[:packedReadings]
	for i := range all {
		all[i].ControlPlane = map[string]float64{}
		for range maxKeptNames {
			all[i].ControlPlane[fmt.Sprintf("%032x%032x", random.Uint64(), random.Uint64())] = random.Float64()
		}
	}
	if lines, err = packed(all); err != nil || len(lines) < 2 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	if again, err = readKept(bytes.NewReader(bytes.Join(lines, nil))); err != nil || len(again) != len(all) {
		t.Errorf("read %d of %d: %v", len(again), len(all), err)
	}
}

func FuzzReadKept(f *testing.F) {
	files, err := filepath.Glob("testdata/readings/*.jsonl")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kept, err := readKept(bytes.NewReader(data))
		if err != nil {
			return
		}
		// A packed line has one reading at least.
		if bytes.Count(data, []byte("\n")) > len(kept) {
			t.Fatalf("%d readings, of %d bytes", len(kept), len(data))
		}
		lines, err := packed(kept)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := readKept(bytes.NewReader(bytes.Join(lines, nil)))
		if diff := cmp.Diff(kept, whole, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("packed (-kept +read): %v\n%s", err, diff)
		}
		// What is kept of what was read is read again as the same.
		for _, k := range kept {
			once := k.reading().keep(k.Cluster, k.ExposedAt)
			line, err := once.line()
			if err != nil {
				t.Fatal(err)
			}
			again, err := readKept(bytes.NewReader(line))
			if err != nil || len(again) != 1 || line[len(line)-1] != '\n' {
				t.Fatalf("%s is not read: %v", line, err)
			}
			twice := again[0].reading().keep(k.Cluster, k.ExposedAt)
			if diff := cmp.Diff(again[0], twice, cmpopts.EquateEmpty(), cmpopts.EquateApprox(1e-5, 1e-8)); diff != "" {
				t.Fatalf("kept twice (-once +twice):\n%s", diff)
			}
		}
	})
}
