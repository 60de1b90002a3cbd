package auditlog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Line is one line of the file. Hash is the SHA-256, in hex, of the line's exact bytes without the hash field:
// {"seq":…,"time":…,"prev":…,"event":…}. Prev is the hash of the line before, "" in the first.
type Line struct {
	Seq   uint64          `json:"seq"`
	Time  time.Time       `json:"time"`
	Prev  string          `json:"prev"`
	Event json.RawMessage `json:"event"`
	Hash  string          `json:"hash,omitempty"`
}

// hashField is how the hash is joined to the bytes it covers, which end in "}".
const hashField = `,"hash":"`

// Summary is what a verified log contains.
type Summary struct {
	// Lines is how many lines the chain has, and LastHash where it ends. Kept elsewhere, the pair shows later that
	// the end was not cut off.
	Lines    uint64
	LastHash string
	// Torn is the length of a last line without its end; its event was never acknowledged.
	Torn int

	size int64
	torn []byte
}

// BreakError is the first place where a log cannot be believed.
type BreakError struct {
	// Line counts from 1.
	Line uint64
	// Reason says which rule the line breaks.
	Reason string
}

// Error implements error.
func (e *BreakError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// Verify checks the chain of the log at path. It returns a *BreakError for the first line that cannot be believed,
// with the summary of the good lines before it. A torn last line is not a break: it is in the summary.
func Verify(path string) (Summary, error) {
	f, err := os.Open(path)
	if err != nil {
		return Summary{}, fmt.Errorf("opening the audit log: %w", err)
	}
	defer f.Close()
	return verify(f)
}

func verify(r io.Reader) (Summary, error) {
	var s Summary
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			s.torn, s.Torn = line, len(line)
			return s, nil
		}
		if err != nil {
			return s, &BreakError{Line: s.Lines + 1, Reason: err.Error()}
		}
		hash, err := checkLine(line, s.Lines+1, s.LastHash)
		if err != nil {
			return s, &BreakError{Line: s.Lines + 1, Reason: err.Error()}
		}
		s.Lines, s.LastHash, s.size = s.Lines+1, hash, s.size+int64(len(line))+1
	}
}

// readLine returns a line without its end, and io.EOF with what follows the last end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		}
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, err
		}
	}
}

// checkLine returns the line's hash when it is the seq-th line after one with hash prev.
func checkLine(line []byte, seq uint64, prev string) (string, error) {
	cut := bytes.LastIndex(line, []byte(hashField))
	if cut < 0 {
		return "", errors.New("it carries no hash")
	}
	covered := append(bytes.Clone(line[:cut]), '}')
	hash := hashOf(covered)
	if want := hashField + hash + `"}`; string(line[cut:]) != want {
		return "", errors.New("its hash does not match its content: it was changed")
	}
	var l Line
	if err := json.Unmarshal(covered, &l); err != nil {
		return "", fmt.Errorf("it is not JSON: %w", err)
	}
	if l.Seq != seq {
		return "", fmt.Errorf("its number is %d, want %d: a line was removed or inserted", l.Seq, seq)
	}
	if l.Prev != prev {
		return "", errors.New("it does not continue the line before: a line was replaced, removed or inserted")
	}
	return hash, nil
}

func encodeLine(seq uint64, at time.Time, prev string, body []byte) (line []byte, hash string, err error) {
	event, err := compact(body)
	if err != nil {
		return nil, "", err
	}
	covered, err := json.Marshal(Line{Seq: seq, Time: at.UTC(), Prev: prev, Event: event})
	if err != nil {
		return nil, "", fmt.Errorf("encoding an audit line: %w", err)
	}
	hash = hashOf(covered)
	line = append(covered[:len(covered)-1], hashField+hash+"\"}\n"...)
	if len(line) > maxLine {
		return nil, "", fmt.Errorf("encoding an audit line: it would be longer than %d bytes", maxLine)
	}
	return line, hash, nil
}

func hashOf(covered []byte) string {
	sum := sha256.Sum256(covered)
	return hex.EncodeToString(sum[:])
}
