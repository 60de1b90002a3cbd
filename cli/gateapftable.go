package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/apf/plan"
)

// writeAPFPlan says first what everyone else gets, then how.
func writeAPFPlan(w io.Writer, p *apfPlanned) error {
	has := fmt.Sprint(p.Seats.Most)
	if p.Seats.Least < p.Seats.Most {
		has = fmt.Sprintf("%d to %d", p.Seats.Least, p.Seats.Most)
	}
	fmt.Fprintf(w, "SEATS OF EVERYONE ELSE: %d → %d of one API server\n", p.Full, p.Else)
	fmt.Fprintf(w, "It has %s; %d are wanted of each of %s.", has, p.Wanted, counted(p.APIServers, "API server"))
	switch {
	case p.Ballast == 0:
		fmt.Fprintln(w, " That many are there: no ballast, nothing is edited.")
	case p.Wanted < p.Floor:
		fmt.Fprintf(w, " Every level keeps one: %d is the least.\n", p.Floor)
	case p.Error == 0:
		fmt.Fprintln(w, " It will be that many.")
	default:
		fmt.Fprintf(w, " It will be at most that, and at most %d less.\n", p.Error)
	}
	fmt.Fprintln(w)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "  LEVEL\tROLE\tSEATS\tSHARES\tLENDS")
	rows := slices.Clone(p.Rows)
	order := []plan.Role{plan.RoleExempt, plan.RoleProtected, plan.RoleElse, plan.RoleBallast}
	slices.SortStableFunc(rows, func(a, b plan.Row) int { return slices.Index(order, a.Role) - slices.Index(order, b.Role) })
	for _, r := range rows {
		if r.Role == plan.RoleBallast && r.SharesAfter == 0 {
			continue
		}
		fmt.Fprintf(tab, "  %s\t%s\t%s\t%s\t%s\n", clipped(r.Name), r.Role, change(r.SeatsBefore, r.SeatsAfter, ""),
			change(int(r.SharesBefore), int(r.SharesAfter), ""), change(int(r.LendableBefore), int(r.LendableAfter), " %"))
	}
	return tab.Flush()
}

func change(before, after int, unit string) string {
	if before == after {
		return fmt.Sprint(before, unit)
	}
	return fmt.Sprintf("%d → %d%s", before, after, unit)
}

func writeAPFStatus(w io.Writer, s *apfStatus, now time.Time) error {
	switch {
	case s.Ballast > 0:
		fmt.Fprintf(w, "SEATS ARE WITHHELD: the ballast has %d shares\n", s.Ballast)
	case len(s.Edited) > 0:
		fmt.Fprintln(w, "LEVELS ARE EDITED, and there is no ballast: 'seakeep gate apf restore' puts them back")
	default:
		fmt.Fprintln(w, "NO SEATS ARE WITHHELD")
	}
	fmt.Fprintf(w, "Follows: %s. Writes now: %s.\n", s.Follower.describe(now), s.Writer.describe(now))
	if s.Unread != "" {
		fmt.Fprintf(w, "warning: no seats: %s\n", printable(s.Unread))
	}
	fmt.Fprintln(w, "\nPRIORITY LEVELS")
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "  LEVEL\tSEATS\tSHARES\tLENDS\tWITHOUT SEAKEEP")
	for _, l := range s.Levels {
		seats, without := "-", ""
		if l.Seats != nil {
			seats = fmt.Sprintf("%.0f", *l.Seats)
		}
		for _, e := range s.Edited {
			switch {
			case e.Level != l.Name:
			case e.Foreign:
				without = "changed by somebody else since"
			default:
				without = fmt.Sprintf("%d shares, lends %d %%", e.Original.Shares, e.Original.Lendable)
			}
		}
		switch l.Name {
		case plan.Ballast, apf.JailLevel:
			without = "not there"
		}
		fmt.Fprintf(tab, "  %s\t%s\t%d\t%d %%\t%s\n", clipped(l.Name), seats, l.Shares, l.Lendable, without)
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return writeAPFJails(w, s.Jails, now)
}

func (l apfLease) describe(now time.Time) string {
	if l.Holder == "" {
		return "nobody"
	}
	return clipped(l.Holder) + " (last sign of life " + ago(l.Renewed, now) + ")"
}

// ago is how long before now it was.
func ago(at *time.Time, now time.Time) string {
	if at == nil {
		return "not known"
	}
	return now.Sub(*at).Round(time.Second).String() + " ago"
}

func writeAPFJails(w io.Writer, jails []apf.Jailed, now time.Time) error {
	fmt.Fprintln(w, "IN JAIL")
	if len(jails) == 0 {
		_, err := fmt.Fprintln(w, "  nobody")
		return err
	}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "  NAME\tWHO\tVERBS\tENDS IN\tREASON")
	for _, j := range jails {
		left := "over"
		if !j.Over(now) {
			left = j.Expires.Sub(now).Round(time.Second).String()
		}
		verbs := strings.Join(j.Verbs, ",")
		if verbs == "" {
			verbs = "*"
		}
		fmt.Fprintf(tab, "  %s\t%s\t%s\t%s\t%s\n", clipped(j.Name), clipped(strings.Join(j.Subjects, ", ")), printable(verbs), left, clipped(j.Reason))
	}
	return tab.Flush()
}

func writeAPFRestored(w io.Writer, r apf.Restored) error {
	if !r.Ballast && len(r.Levels)+len(r.Left) == 0 {
		_, err := fmt.Fprintln(w, "nothing was to be restored")
		return err
	}
	if r.Ballast {
		fmt.Fprintln(w, "the ballast is gone")
	}
	for _, level := range r.Levels {
		fmt.Fprintf(w, "%s: restored\n", clipped(level))
	}
	for _, level := range r.Left {
		fmt.Fprintf(w, "%s: left as somebody else has made it\n", clipped(level))
	}
	return nil
}
