package admit

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/seakeep/seakeep/internal/statefile"
)

// saveEvery is how often what was learned is kept; what is lost with a process is relearned in as much time.
const saveEvery = time.Minute

// keptVersion is the schema's.
const keptVersion = 1

// keptState is what is kept over a restart.
type keptState struct {
	// Costs are the cost model's own.
	Costs json.RawMessage `json:"costs"`
}

func (r *Room) file() *statefile.File {
	if r.o.StateDir == "" {
		return nil
	}
	return statefile.New(r.o.StateDir, "admission", keptVersion)
}

// restore takes what was learned before a restart. What cannot be used is told and learned anew.
func (r *Room) restore() {
	file := r.file()
	if file == nil {
		return
	}
	var state keptState
	_, err := file.Load(&state)
	if err == nil {
		err = r.costs.Restore(state.Costs, time.Now())
	}
	if err != nil && !errors.Is(err, statefile.ErrNone) {
		r.o.Log.Warn("Costs are learned anew", "reason", err)
	}
}

// save keeps what was learned. A full disk costs a relearning and nothing else.
func (r *Room) save() {
	file := r.file()
	if file == nil || r.costs.Len() == 0 { // nothing is learned where nothing is admitted
		return
	}
	costs, err := r.costs.Marshal()
	if err == nil {
		err = file.Save(keptState{Costs: costs})
	}
	if err != nil {
		r.o.Log.Warn("What was learned of costs would not survive a restart", "reason", err)
	}
}
