package machine

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestDescribe(t *testing.T) {
	text := Describe()
	for _, want := range []string{" × ", "GB", "Linux", "go1."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	for name, tc := range map[string]struct {
		line    string
		want    stat
		wantErr bool
	}{
		"a name with brackets and blanks": {line: "7 (a) b) S 3 1 1 0 -1 4 0 0 0 0 250 50 0 0 20 0 1 0 99", want: stat{parent: 3, ticks: 300}},
		"no command":                      {line: "7 S 3", wantErr: true},
		"cut off":                         {line: "7 (a) S 3 1", wantErr: true},
		"no number":                       {line: "7 (a) S x 1 1 0 -1 4 0 0 0 0 1 1 0 0", wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.line))
			if got != tc.want || (err != nil) != tc.wantErr {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (a) b) S 3 1 1 0 -1 4 0 0 0 0 250 50 0 0 20 0 1 0 99"))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parseStat(data) })
}

func TestOwnUsage(t *testing.T) {
	before, err := CPUSeconds(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		after, err := CPUSeconds(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if after > before {
			break
		}
		if time.Now().After(end) {
			t.Fatal("ten busy seconds were not seen")
		}
	}
	if resident, err := Resident(os.Getpid()); err != nil || resident < 1<<20 {
		t.Errorf("got %d bytes, %v", resident, err)
	}
	if peak, err := Peak(os.Getpid()); err != nil || peak < 1<<20 {
		t.Errorf("got a peak of %d bytes, %v", peak, err)
	}
	const nobody = 1 << 30
	if err := ForgetPeak(os.Getpid()); err != nil {
		t.Error(err)
	}
	if err := ForgetPeak(nobody); err == nil {
		t.Error("the peak of nobody was forgotten")
	}
	if _, err := Peak(nobody); err == nil {
		t.Error("a process that is not there has a peak")
	}
	if _, err := CPUSeconds(nobody); err == nil {
		t.Error("a process that is not there has a CPU time")
	}
	if _, err := Resident(nobody); err == nil {
		t.Error("a process that is not there has memory")
	}
}

func TestPin(t *testing.T) {
	cpus, err := CPUs()
	if err != nil || len(cpus) == 0 {
		t.Fatal(cpus, err)
	}
	t.Cleanup(func() {
		if err := Pin(os.Getpid(), cpus); err != nil {
			t.Error(err)
		}
	})
	if err := Pin(os.Getpid(), cpus[:1]); err != nil {
		t.Fatal(err)
	}
	if now, err := CPUs(); err != nil || len(now) != 1 || now[0] != cpus[0] {
		t.Errorf("got %v, %v", now, err)
	}
}
