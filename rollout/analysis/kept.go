package analysis

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/seakeep/seakeep/rollout/verdict"
)

// keptReading is a reading as it is kept for the next process: what a baseline and a course over hours need.
type keptReading struct {
	Cluster string    `json:"cluster"`
	At      time.Time `json:"at"`
	// ExposedAt is when the change came to the cluster, if it had by then.
	ExposedAt time.Time `json:"exposedAt,omitzero"`
	// ControlPlane are the levels by check, without controlPlane. before it, in seconds, bytes and ratios.
	ControlPlane map[string]float64 `json:"controlPlane,omitempty"`
	// Asked are the questions to DNS and the API, by check.
	Asked map[string]keptAsked `json:"asked,omitempty"`
	// Pods are what the look saw of the workload.
	Pods *verdict.Pods `json:"pods,omitempty"`
}

// keptAsked is what came of one question to all who were asked.
type keptAsked struct {
	Asked    int `json:"asked"`
	Answered int `json:"answered"`
	// P90 is the 90th percentile of the slowest one's answers, in seconds; 0 when nobody answered.
	P90 float64 `json:"p90,omitempty"`
}

// keptLine is one line of the file: a reading, or many that were packed when the file was written anew.
type keptLine struct {
	keptReading
	// Packed is gzip of lines of one reading each. Beside each other they are a sixth as long: 300 clusters' must not fill a disk.
	Packed []byte `json:"packed,omitempty"`
}

// Bounds on one line.
const (
	maxKeptLine  = 128 << 10
	maxKeptNames = 64
	// packedReadings are the most in a packed line, and maxUnpacked bytes the most it may hold; one line of a reading more is not begun
	// beyond half of that, so that what does not shrink at all is still no line that is too long.
	packedReadings = 50
	maxUnpacked    = 128 << 10
)

// controlPlane begins the checks that have levels.
const controlPlane = "controlPlane."

var keptName = regexp.MustCompile(`^[A-Za-z0-9.]{1,64}$`)

// datable is true for what can be written in any time zone, and is no zero by mistake.
func datable(t time.Time) bool { return t.Year() > 1970 && t.Year() < 9000 }

// validate refuses what no reading can be.
func (k keptReading) validate() error {
	switch {
	case k.Cluster == "" || len(k.Cluster) > 253:
		return errors.New("cluster must be a cluster's name")
	case !datable(k.At):
		return errors.New("at must be a time")
	case !k.ExposedAt.IsZero() && !datable(k.ExposedAt):
		return errors.New("exposedAt must be a time")
	case k.At.Before(k.ExposedAt):
		return errors.New("exposedAt must not be after at: a reading from before the change has none")
	case len(k.ControlPlane) > maxKeptNames, len(k.Asked) > maxKeptNames:
		return fmt.Errorf("controlPlane and asked must have at most %d names each", maxKeptNames)
	}
	for name := range k.ControlPlane {
		if !keptName.MatchString(name) {
			return fmt.Errorf("controlPlane: %.100q must be the rest of a check's name", name)
		}
	}
	for name, a := range k.Asked {
		if !keptName.MatchString(name) || name != checkDNS && !strings.HasPrefix(name, checkProbes) {
			return fmt.Errorf("asked: %.100q must be a check's name, %s or %sNAME", name, checkDNS, checkProbes)
		}
		if a.Asked < 0 || a.Answered < 0 || a.Answered > a.Asked || a.P90 < 0 || a.P90 > math.MaxInt64/float64(time.Second)/2 {
			return fmt.Errorf("asked %.100q: answered must be 0 to asked, and p90 a time, got %+v", name, a)
		}
	}
	if k.Pods == nil {
		return nil
	}
	for _, n := range []verdict.PodCount{k.Pods.Update, k.Pods.Stable} {
		if n.Pods < 0 || n.Late < 0 || n.Late > n.Pods || n.Restarts < 0 || n.PodHours < 0 {
			return fmt.Errorf("pods: late must be 0 to pods, and nothing less than 0, got %+v", n)
		}
	}
	return nil
}

// keep is the reading as it is kept. Figures have six digits: none is measured better.
func (r reading) keep(cluster string, exposedAt time.Time) keptReading {
	k := keptReading{Cluster: cluster, At: r.at.UTC().Round(0), ControlPlane: map[string]float64{}, Asked: map[string]keptAsked{}}
	if r.pods != nil {
		pods := *r.pods
		pods.Update.PodHours, pods.Stable.PodHours = sixDigits(pods.Update.PodHours), sixDigits(pods.Stable.PodHours)
		k.Pods = &pods
	}
	if !exposedAt.IsZero() && !r.at.Before(exposedAt) {
		k.ExposedAt = exposedAt.UTC().Round(0)
	}
	for check, v := range r.levels {
		if name, ok := strings.CutPrefix(check, controlPlane); ok && keptName.MatchString(name) && !math.IsNaN(v) && !math.IsInf(v, 0) {
			k.ControlPlane[name] = sixDigits(v)
		}
	}
	for key := range r.asked {
		check, _, _ := strings.Cut(key, "/")
		if strings.HasPrefix(check, controlPlane) {
			continue // that it is ready is asked now or not known
		}
		asked, answered := r.counted(check)
		slow, _ := r.level(check + latencyOf)
		k.Asked[check] = keptAsked{Asked: asked, Answered: answered, P90: sixDigits(slow)}
	}
	return k
}

func sixDigits(v float64) float64 {
	short, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 6, 64), 64) // of what was just formatted
	return short
}

// reading is what a later process has of it.
func (k keptReading) reading() reading {
	r := reading{at: k.At, done: k.At, levels: map[string]float64{}, asked: map[string]verdict.Asked{}, pods: k.Pods, kept: true}
	for name, v := range k.ControlPlane {
		r.levels[controlPlane+name] = v
	}
	for check, a := range k.Asked {
		asked := verdict.Asked{Check: check, Asked: a.Asked, Answered: a.Answered, At: k.At}
		if a.Answered > 0 {
			asked.Took = []time.Duration{time.Duration(a.P90 * float64(time.Second))}
		}
		r.asked[check] = asked
	}
	return r
}

// readKept reads lines as they were written. A last line without its end, of a process that was killed, is passed
// over; any other that is wrong is an error with its number.
func readKept(r io.Reader) (all []keptReading, err error) {
	lines := bufio.NewReaderSize(r, maxKeptLine)
	for number := 1; ; number++ {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			// The torn one may be of any length: only the end of the file shows which it is.
			if torn, err := endless(lines); torn || err != nil {
				return all, err
			}
			err = fmt.Errorf("it is longer than %d bytes", maxKeptLine)
		}
		var read []keptReading
		if err == nil {
			read, err = parseKept(line)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		all = append(all, read...)
	}
}

// endless is true when the line that is being read has no end.
func endless(lines *bufio.Reader) (bool, error) {
	for {
		_, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return true, nil
		case err == nil:
			return false, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return false, err
		}
	}
}

// parseKept reads a line: one reading, or those that are packed in it.
func parseKept(line []byte) ([]keptReading, error) {
	var k keptLine
	if err := decodeKept(line, &k); err != nil {
		return nil, err
	}
	if k.Packed == nil {
		return []keptReading{k.keptReading}, k.validate()
	}
	if k.Cluster != "" || !k.At.IsZero() {
		return nil, errors.New("packed readings have their clusters and times in them, not beside them")
	}
	all, err := unpacked(k.Packed)
	if err != nil {
		return nil, fmt.Errorf("packed: %w", err)
	}
	return all, nil
}

func decodeKept(line []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); errors.Is(err, io.EOF) {
		return errors.New("it is empty")
	} else if err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the reading")
	}
	return nil
}

// unpacked are the readings in what packed made.
func unpacked(packed []byte) ([]keptReading, error) {
	from, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(from, maxUnpacked+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxUnpacked {
		return nil, fmt.Errorf("it holds more than %d bytes", maxUnpacked)
	}
	if len(text) == 0 || text[len(text)-1] != '\n' {
		return nil, errors.New("it does not end with a whole reading")
	}
	var all []keptReading
	for line := range bytes.Lines(text) {
		var k keptReading
		err := decodeKept(line, &k)
		if err == nil {
			err = k.validate()
		}
		if err != nil {
			return nil, fmt.Errorf("reading %d: %w", len(all)+1, err)
		}
		all = append(all, k)
	}
	return all, nil
}

// packed are readings as lines of many, in their order.
func packed(all []keptReading) (lines [][]byte, err error) {
	var text bytes.Buffer
	held := 0
	flush := func() error {
		if held == 0 {
			return nil
		}
		var into bytes.Buffer
		zip := gzip.NewWriter(&into)
		_, err := zip.Write(text.Bytes())
		if err = errors.Join(err, zip.Close()); err != nil {
			return err
		}
		line, err := json.Marshal(struct {
			Packed []byte `json:"packed"`
		}{into.Bytes()})
		lines, held = append(lines, append(line, '\n')), 0
		text.Reset()
		return err
	}
	for _, k := range all {
		line, err := k.line()
		if err != nil {
			return nil, err
		}
		if held == packedReadings || held > 0 && text.Len()+len(line) > maxUnpacked/2 {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		text.Write(line)
		held++
	}
	return lines, flush()
}

func (k keptReading) line() ([]byte, error) {
	line, err := json.Marshal(k)
	return append(line, '\n'), err
}
