package apf

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/seakeep/seakeep/apf/plan"
)

// What Seakeep writes into a cluster, by name.
const (
	// FieldManager owns the fields.
	FieldManager = "seakeep-apf"
	// LeaseNamespace and WriterLease are where the right to write is, held for as long as one change takes; FollowerLease is
	// held for as long as a follower runs. They are two, so that a jail does not have to wait until a follower ends.
	LeaseNamespace = "kube-system"
	WriterLease    = "seakeep-apf"
	FollowerLease  = "seakeep-apf-follow"

	managedBy      = "app.kubernetes.io/managed-by"
	managedByUs    = "seakeep"
	partLabel      = "seakeep.dev/apf"
	partBallast    = "ballast"
	partJail       = "jail"
	originalKey    = "seakeep.dev/apf-original"
	expiresKey     = "seakeep.dev/apf-expires"
	reasonKey      = "seakeep.dev/apf-reason"
	autoUpdateKey  = flowcontrolv1.AutoUpdateAnnotationKey
	autoUpdateNone = "" // the annotation is not there
)

// Original is what an edited level was before, and what was written instead.
type Original struct {
	Shares   int32 `json:"shares"`
	Lendable int32 `json:"lendable"`
	// AutoUpdate is the value of apf.kubernetes.io/autoupdate-spec, "" when it was not there.
	AutoUpdate string `json:"autoUpdate,omitempty"`
	// WroteShares and WroteLendable are Seakeep's. A level that has others was changed by somebody else since.
	WroteShares   int32 `json:"wroteShares"`
	WroteLendable int32 `json:"wroteLendable"`
}

// parseOriginal reads the annotation. Whoever may edit the level may have written it, so that it is checked like any input.
func parseOriginal(text string) (Original, error) {
	var o Original
	if len(text) > 1<<10 {
		return o, errors.New("it is longer than a kilobyte")
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return Original{}, err
	}
	if o.Shares < 0 || o.WroteShares < 0 {
		return Original{}, fmt.Errorf("shares must be ≥ 0, got %d and %d", o.Shares, o.WroteShares)
	}
	for _, percent := range []int32{o.Lendable, o.WroteLendable} {
		if percent < 0 || percent > 100 {
			return Original{}, fmt.Errorf("lendable must be 0–100 percent, got %d", percent)
		}
	}
	if o.AutoUpdate != autoUpdateNone {
		if _, err := strconv.ParseBool(o.AutoUpdate); err != nil {
			return Original{}, fmt.Errorf("autoUpdate must be true or false, got %q", o.AutoUpdate)
		}
	}
	return o, nil
}

func (o Original) text() string {
	data, err := json.Marshal(o)
	if err != nil {
		panic("BUG: encoding an original: " + err.Error())
	}
	return string(data)
}

func ours(labels map[string]string, part string) bool {
	return labels[managedBy] == managedByUs && labels[partLabel] == part
}

// levelOf is a priority level as it is.
func levelOf(pl *flowcontrolv1.PriorityLevelConfiguration) plan.Level {
	l := plan.Level{Name: pl.Name, Exempt: pl.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt}
	value := func(p *int32, absent int32) int32 {
		if p == nil {
			return absent
		}
		return *p
	}
	switch {
	case l.Exempt && pl.Spec.Exempt != nil:
		l.Shares, l.Lendable = value(pl.Spec.Exempt.NominalConcurrencyShares, 0), value(pl.Spec.Exempt.LendablePercent, 0)
	case !l.Exempt && pl.Spec.Limited != nil:
		// The API server fills both in; the defaults are its own.
		l.Shares, l.Lendable = value(pl.Spec.Limited.NominalConcurrencyShares, 30), value(pl.Spec.Limited.LendablePercent, 0)
	}
	return l
}
