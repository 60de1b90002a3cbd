// Package decision decides which of two DNS servers a node's clients are sent to. It is pure: what was seen goes in, what
// to do comes out, and time and chance are inputs.
package decision

import "time"

// Answer is what a round of questions to one server came to.
type Answer struct {
	// Good is true when every question was answered, in time, as it should be.
	Good bool
	// Silent is true when no question was answered at all, rightly or wrongly.
	Silent bool
	// Confirmed is when the server's data was last known to be current; zero when it does not say.
	Confirmed time.Time
}

// Round is one look at both servers.
type Round struct {
	At              time.Time
	Primary, Backup Answer
	// Random is in [0, 1).
	Random float64
}

// Config are the thresholds; see api/v1alpha1 for what each is for.
type Config struct {
	FailAfter, RecoverAfter int
	MinimumHold, AllowedLag time.Duration
}

// Reason says why it was decided so. It is a label of metrics.
type Reason string

// The reasons.
const (
	// PrimarySilent and PrimaryWrong lead to the backup.
	PrimarySilent Reason = "primary_silent"
	PrimaryWrong  Reason = "primary_wrong"
	// PrimaryRecovered and BackupFailed lead back.
	PrimaryRecovered Reason = "primary_recovered"
	BackupFailed     Reason = "backup_failed"
	// BackupBad and BackupOld keep the clients at a primary that is bad.
	BackupBad Reason = "backup_bad"
	BackupOld Reason = "backup_old"
	// Holding and Recovering keep the clients at the backup for the time being.
	Holding    Reason = "holding"
	Recovering Reason = "recovering"
	// Fine: there is nothing to do; Failing: the primary is bad, and not for long enough.
	Fine    Reason = "fine"
	Failing Reason = "failing"
)

// SwitchReasons are those of a change, for metrics.
var SwitchReasons = []Reason{PrimarySilent, PrimaryWrong, PrimaryRecovered, BackupFailed}

// Decision is where clients belong, and why.
type Decision struct {
	Backup bool
	Reason Reason
}

// Decider remembers what it needs of earlier rounds. It is used by one goroutine.
type Decider struct {
	c      Config
	backup bool
	until  time.Time // the end of the minimum hold

	bad, silent, good     int // the primary's, in a row
	backupGood, backupBad int // the backup's, in a row
	// served is the youngest data that the primary gave good answers from.
	served time.Time
}

// New returns a Decider whose clients are at the primary.
func New(c Config) *Decider { return &Decider{c: c} }

// Decide takes the next round.
func (d *Decider) Decide(r Round) Decision {
	d.count(r)
	if d.backup {
		return d.onBackup(r)
	}
	return d.onPrimary(r)
}

func (d *Decider) count(r Round) {
	if r.Primary.Good {
		d.good, d.bad, d.silent = d.good+1, 0, 0
		if r.Primary.Confirmed.After(d.served) {
			d.served = r.Primary.Confirmed
		}
	} else {
		d.good, d.bad = 0, d.bad+1
		if d.silent++; !r.Primary.Silent {
			d.silent = 0
		}
	}
	if r.Backup.Good {
		d.backupGood, d.backupBad = d.backupGood+1, 0
	} else {
		d.backupGood, d.backupBad = 0, d.backupBad+1
	}
}

func (d *Decider) onPrimary(r Round) Decision {
	switch silent := d.silent >= d.c.FailAfter; {
	case d.bad == 0:
		return Decision{false, Fine}
	case d.bad < d.c.FailAfter:
		return Decision{false, Failing}
	case d.backupGood < d.c.FailAfter: // as sure of the one as of the other
		return Decision{false, BackupBad}
	case !silent && d.old(r.Backup):
		// Wrong answers may be the smaller evil: some of them are right, and the backup's are those of another time.
		return Decision{false, BackupOld}
	case silent:
		return d.engage(r, PrimarySilent)
	}
	return d.engage(r, PrimaryWrong)
}

// old is true when the backup's data is of an earlier time than what the primary served, by more than it may be. What
// says nothing of its age is old beside what does.
func (d *Decider) old(backup Answer) bool {
	return !d.served.IsZero() && backup.Confirmed.Before(d.served.Add(-d.c.AllowedLag))
}

func (d *Decider) engage(r Round, reason Reason) Decision {
	d.backup = true
	// Nodes that switched in one moment, because of one fault, must not come back in one moment too.
	d.until = r.At.Add(d.c.MinimumHold + time.Duration(r.Random*float64(d.c.MinimumHold)/2))
	return Decision{true, reason}
}

func (d *Decider) onBackup(r Round) Decision {
	switch {
	case d.backupBad >= d.c.FailAfter && !r.Primary.Silent:
		// Whatever answers is better than what does not; the hold is for a choice between two that do.
		return d.release(BackupFailed)
	case d.good == 0:
		return Decision{true, Holding}
	case d.good < d.c.RecoverAfter:
		return Decision{true, Recovering}
	case r.At.Before(d.until):
		return Decision{true, Holding}
	}
	return d.release(PrimaryRecovered)
}

func (d *Decider) release(reason Reason) Decision {
	d.backup = false
	return Decision{false, reason}
}

// Undo takes the last change back: it was decided and could not be done. The next round decides again.
func (d *Decider) Undo() { d.backup = !d.backup }
