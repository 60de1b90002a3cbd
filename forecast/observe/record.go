package observe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/internal/statefile"
)

// Bounds on a file of samples: one a minute for two months, of all kinds.
const (
	maxSamples    = 100_000
	maxSampleLine = 4 << 10
)

// ReadSamples reads samples as WriteSamples wrote them, one JSON object a line. A last line without its end, of a process that
// was killed, is passed over; any other that is wrong is an error with its number.
func ReadSamples(r io.Reader) ([]forecast.Sample, error) {
	var samples []forecast.Sample
	lines := bufio.NewReaderSize(r, maxSampleLine)
	for number := 1; ; number++ {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF {
			return samples, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading samples, line %d: %w", number, err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if len(samples) == maxSamples {
			return nil, fmt.Errorf("reading samples: there are more than %d", maxSamples)
		}
		var s forecast.Sample
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&s); err != nil {
			return nil, fmt.Errorf("reading samples, line %d: %w", number, err)
		}
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("reading samples, line %d: %w", number, err)
		}
		samples = append(samples, s)
	}
}

// Record is the samples of a component in a file, for the process that follows. It is for one goroutine at a time.
type Record struct {
	// Samples are all there are, those of earlier processes first.
	Samples []forecast.Sample
	lines   *statefile.Lines
}

// OpenRecord reads what earlier processes have kept in a file, if there is one. mode is that of a file which is made.
func OpenRecord(path string, mode os.FileMode) (*Record, error) {
	var r Record
	var err error
	r.lines, err = statefile.OpenLines(path, mode, 0, func(from io.Reader) (err error) {
		r.Samples, err = ReadSamples(from)
		return err
	})
	return &r, err
}

// Keep adds a sample. One that could not be written down, which is the error, is made up for by a later call.
func (r *Record) Keep(s forecast.Sample) error {
	r.Samples = append(r.Samples, s)
	line, err := sampleLine(s)
	if err != nil {
		return err
	}
	r.lines.Add(time.Now(), line, r.all)
	return r.lines.Trouble()
}

func (r *Record) all() ([][]byte, error) {
	lines := make([][]byte, 0, len(r.Samples))
	for _, s := range r.Samples {
		line, err := sampleLine(s)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// sampleLine is a sample as ReadSamples reads it, with its line feed.
func sampleLine(s forecast.Sample) ([]byte, error) {
	line, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing a sample: %w", err)
	}
	return append(line, '\n'), nil
}
