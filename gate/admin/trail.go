package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// maxLate bounds the events that wait for the audit file. They are rare: a thousand is more than a day's emergency.
const maxLate = 1024

// trail is the audit chain, and what is not in it yet: a full disk must not keep a rule from working, and when it has
// room again the chain should still tell the whole story. Its methods are called with the rules' lock held.
type trail struct {
	open  func() (auditor, error)
	clock func() time.Time
	log   *slog.Logger

	chain  auditor // nil while it cannot be opened
	late   []event // not in the chain yet, oldest first
	lost   int     // were late and did not fit
	broken error   // why the chain does not take events
}

// record appends to the chain. When that fails, the line is in the process's log, every status says so, and it is tried
// again.
func (t *trail) record(e event) {
	at := t.clock().UTC()
	e.At = &at
	t.late = append(t.late, e)
	if len(t.late) > maxLate {
		t.late = t.late[1:]
		t.lost++
	}
	if len(t.late) == 1 && t.lost == 0 && t.chain != nil {
		t.late[0].At = nil // the chain's own time says it
	}
	if t.append(); t.broken != nil {
		t.log.Error("Auditing an emergency action", "event", e.Event, "by", e.By, "reason", t.broken)
	}
}

// retry is record without a new event; it opens the file when it is not open.
func (t *trail) retry() {
	if t.chain == nil && t.open != nil {
		chain, err := t.open()
		if err != nil {
			t.broken = err
			return
		}
		t.chain = chain
	}
	if len(t.late) == 0 && t.lost == 0 {
		t.broken = nil
		return
	}
	if t.append(); t.broken != nil && t.chain != nil {
		_ = t.chain.Close() // opened again next time: an earlier failure may have left it unusable
		t.chain = nil
		return
	}
	t.log.Info("The audit log has every emergency action again")
}

// append moves what is late into the chain, as far as that goes.
func (t *trail) append() {
	if t.chain == nil {
		if t.broken == nil {
			t.broken = errors.New("the audit log is not open")
		}
		return
	}
	if t.lost > 0 {
		if t.broken = t.chain.Append(event{Event: "gap", Lost: t.lost, Reason: "the audit log could not be written; the actions are in the process's log"}); t.broken != nil {
			return
		}
		t.lost = 0
	}
	for len(t.late) > 0 {
		if t.broken = t.chain.Append(t.late[0]); t.broken != nil {
			now := t.clock().UTC()
			if t.late[0].At == nil {
				t.late[0].At = &now
			}
			return
		}
		t.late = t.late[1:]
	}
	t.late = nil
}

// warning is what an operator should know, nil when the chain is whole.
func (t *trail) warning() error {
	switch missing := len(t.late) + t.lost; {
	case t.broken == nil:
		return nil
	case missing == 0:
		return fmt.Errorf("emergency actions are not audited: %w", t.broken)
	default:
		return fmt.Errorf("%d emergency actions are not in the audit log, which is tried again: %w", missing, t.broken)
	}
}

func (t *trail) close() error {
	if t.chain == nil {
		return nil
	}
	return t.chain.Close()
}
