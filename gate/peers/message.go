package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"time"

	"github.com/seakeep/seakeep/gate/peers/agree"
)

// Bounds on what one gate tells another. They hold for gates that have the key, too: one that is broken must not take the
// others' memory.
const (
	maxMessage = 1 << 20
	maxHeard   = agree.MaxGates
)

// message is all that a gate knows: what it says itself, and what it heard. Whoever hears it twice, late or out of order
// knows no less.
type message struct {
	Version int       `json:"version"`
	From    string    `json:"from"`
	Now     time.Time `json:"now"`
	agree.Decisions
	Words []agree.Word `json:"words,omitempty"`
}

const messageVersion = 1

var (
	errTooLarge = fmt.Errorf("a message of another gate must be at most %d bytes", maxMessage)
	errVersion  = errors.New("a message of another gate has a version that this one does not know")
	gateName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)
)

// encode leaves out the rules that do not fit, and says how many.
func (m message) encode() (data []byte, left int) {
	m.Version = messageVersion
	for {
		data, err := json.Marshal(m)
		if err != nil {
			return nil, len(m.Rules) // no value of these types does that
		}
		if len(data) <= maxMessage || len(m.Rules) == 0 {
			return data, left
		}
		m.Rules = m.Rules[:len(m.Rules)-1]
		left++
	}
}

// decode takes what another gate sent, or says what is wrong with it. Fields it does not know are passed over, so that gates
// of two versions can be neighbours during an upgrade.
func decode(data []byte) (*message, error) {
	if len(data) > maxMessage {
		return nil, errTooLarge
	}
	var m message
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("reading a message of another gate: %w", err)
	}
	if m.Version != messageVersion {
		return nil, errVersion
	}
	if !gateName.MatchString(m.From) {
		return nil, errors.New("a message of another gate does not say whose it is")
	}
	if n := len(m.Rules) + len(m.Lifts); n > 2*(agree.MaxRules+agree.MaxLifts) || len(m.Words) > agree.MaxGates {
		return nil, fmt.Errorf("a message of another gate has %d decisions and %d words", n, len(m.Words))
	}
	for i := range m.Words {
		if err := checkWord(&m.Words[i]); err != nil {
			return nil, fmt.Errorf("a message of another gate: %w", err)
		}
	}
	return &m, nil
}

func checkWord(w *agree.Word) error {
	if !gateName.MatchString(w.Name) {
		return errors.New("a word without a name")
	}
	if len(w.Bounds) > maxHeard || len(w.Heard) > maxHeard || len(w.View) > maxHeard*100 {
		return errors.New("a word that is too long")
	}
	if w.Seq > math.MaxInt64 || w.ViewSeq > math.MaxInt64 { // one more must still be a number
		return errors.New("a word out of count")
	}
	if w.Share < 0 || w.Share > agree.Whole || math.IsNaN(w.Age) || w.Age < 0 || w.Age > 1e9 {
		return errors.New("a word with a share or an age that cannot be")
	}
	for name, part := range w.Bounds {
		if !gateName.MatchString(name) || part < 0 || part > agree.Whole {
			return errors.New("a word with a bound that cannot be")
		}
	}
	for name := range w.Heard {
		if !gateName.MatchString(name) {
			return errors.New("a word that heard of nobody")
		}
	}
	return nil
}
