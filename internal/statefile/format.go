package statefile

import (
	"bytes"
	"crypto/sha256"
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
}

func encode(version int, saved time.Time, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	covered := fmt.Sprintf("%s schema=%d saved=%s bytes=%d", magic, version, saved.UTC().Format(time.RFC3339Nano), len(body))
	return fmt.Appendf(nil, "%s sha256=%s\n%s", covered, checksum(covered, body), body), nil
}

// decode reads foreign bytes: whatever they are, it returns an error or a body that is exactly what was saved.
func decode(data []byte) (header, []byte, error) {
	line, body, found := bytes.Cut(data, []byte{'\n'})
	if !found || !bytes.HasPrefix(line, []byte(magic+" ")) {
		return header{}, nil, fmt.Errorf("not a state file of this program: it begins with %q", clip(line))
	}
	fields := strings.Split(string(line), " ")
	if len(fields) != 5 {
		return header{}, nil, fmt.Errorf("header has %d fields, want 5", len(fields))
	}
	values := make([]string, 0, 4)
	for i, key := range []string{"schema", "saved", "bytes", "sha256"} {
		value, ok := strings.CutPrefix(fields[i+1], key+"=")
		if !ok {
			return header{}, nil, fmt.Errorf("header field %d is not %s=", i+1, key)
		}
		values = append(values, value)
	}
	version, err := strconv.Atoi(values[0])
	if err != nil || version < 1 {
		return header{}, nil, fmt.Errorf("schema version %q is not a number ≥ 1", values[0])
	}
	saved, err := time.Parse(time.RFC3339Nano, values[1])
	if err != nil {
		return header{}, nil, fmt.Errorf("parsing the time it was saved: %w", err)
	}
	size, err := strconv.Atoi(values[2])
	if err != nil || size < 0 {
		return header{}, nil, fmt.Errorf("length %q is not a number", values[2])
	}
	if len(body) != size {
		return header{}, nil, fmt.Errorf("torn: %d of %d bytes are there", len(body), size)
	}
	covered, _, _ := strings.Cut(string(line), " sha256=")
	if checksum(covered, body) != values[3] {
		return header{}, nil, errors.New("its checksum does not match: it was changed after it was saved")
	}
	return header{version: version, saved: saved}, body, nil
}

func checksum(covered string, body []byte) string {
	h := sha256.New()
	h.Write([]byte(covered))
	h.Write([]byte{'\n'})
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}
