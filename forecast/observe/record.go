package observe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/seakeep/seakeep/forecast"
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

// Line is a sample as ReadSamples reads it, with its line feed.
func Line(s forecast.Sample) ([]byte, error) {
	line, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing a sample: %w", err)
	}
	return append(line, '\n'), nil
}

// Lines are samples as ReadSamples reads them.
func Lines(samples []forecast.Sample) ([][]byte, error) {
	lines := make([][]byte, 0, len(samples))
	for _, s := range samples {
		line, err := Line(s)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}
