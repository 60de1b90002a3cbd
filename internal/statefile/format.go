package statefile

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The format is one header line and a JSON body:
//
//	seakeep-state/1 schema=3 saved=2026-01-02T15:04:05.999Z bytes=1234 sha256=<64 hex digits>
//
// The checksum covers the header up to it and the body, so that a flipped bit anywhere is seen; the length tells a
// torn file from a spoilt one. It stays readable with head and jq in an outage.
const magic = "seakeep-state/1"

// header is the first line, decoded.
type header struct {
	version int
	saved   time.Time
	// size is the body's length, covered the header as far as the checksum covers it, sum the checksum in hex.
	size    int64
	covered string
	sum     string
}

func encode(version int, saved time.Time, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	covered := coveredHeader(version, saved, int64(len(body)))
	return fmt.Appendf(nil, "%s sha256=%s\n%s", covered, checksum(covered, body), body), nil
}

func coveredHeader(version int, saved time.Time, size int64) string {
	return fmt.Sprintf("%s schema=%d saved=%s bytes=%d", magic, version, saved.UTC().Format(time.RFC3339Nano), size)
}

// decode reads foreign bytes: whatever they are, it returns an error or a body that is exactly what was saved.
func decode(data []byte) (header, []byte, error) {
	line, body, found := bytes.Cut(data, []byte{'\n'})
	h, err := decodeHeader(line)
	if err == nil && !found {
		err = errNoLine
	}
	if err != nil {
		return header{}, nil, err
	}
	if int64(len(body)) != h.size {
		return header{}, nil, tornError(int64(len(body)), h.size)
	}
	if checksum(h.covered, body) != h.sum {
		return header{}, nil, errChecksum
	}
	return h, body, nil
}

var errChecksum = errors.New("its checksum does not match: it was changed after it was saved")

var errNoLine = errors.New("torn: its first line does not end")

func tornError(there, size int64) error {
	return fmt.Errorf("torn: %d of %d bytes are there", there, size)
}

func decodeHeader(line []byte) (header, error) {
	if !bytes.HasPrefix(line, []byte(magic+" ")) {
		return header{}, fmt.Errorf("not a state file of this program: it begins with %q", clip(line))
	}
	fields := strings.Split(string(line), " ")
	if len(fields) != 5 {
		return header{}, fmt.Errorf("header has %d fields, want 5", len(fields))
	}
	values := make([]string, 0, 4)
	for i, key := range []string{"schema", "saved", "bytes", "sha256"} {
		value, ok := strings.CutPrefix(fields[i+1], key+"=")
		if !ok {
			return header{}, fmt.Errorf("header field %d is not %s=", i+1, key)
		}
		values = append(values, value)
	}
	version, err := strconv.Atoi(values[0])
	if err != nil || version < 1 {
		return header{}, fmt.Errorf("schema version %q is not a number ≥ 1", values[0])
	}
	saved, err := time.Parse(time.RFC3339Nano, values[1])
	if err != nil {
		return header{}, fmt.Errorf("parsing the time it was saved: %w", err)
	}
	size, err := strconv.ParseInt(values[2], 10, 64)
	if err != nil || size < 0 {
		return header{}, fmt.Errorf("length %q is not a number", values[2])
	}
	covered, _, _ := strings.Cut(string(line), " sha256=")
	return header{version: version, saved: saved, size: size, covered: covered, sum: values[3]}, nil
}

func checksum(covered string, body []byte) string {
	h := newChecksum(covered)
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}
