package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/seakeep/seakeep/gate/ledger"
)

// writeTop is a live snapshot as a table: rates of the last minute, so that two lines can be compared whenever their
// clients came.
func writeTop(w io.Writer, s *ledger.Snapshot) error {
	total := s.Rates.Minute
	fmt.Fprintf(w, "%s  %.2f seats, %.1f requests/s, %s/s, %.1f rejected/s, %d streams open; %d clients\n",
		s.Taken.Format(time.TimeOnly), total.Seats, total.Requests, byteSize(total.Bytes), total.Rejected, s.OpenStreams, s.Clients)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SEATS\t±\tREQ/S\tREJ/S\tBYTES/S\tSTREAMS\tSOURCES\tVERB\tRESOURCE\tUSER\tUSER AGENT")
	for i := range s.Entries {
		e := &s.Entries[i]
		minute := e.Rates.Minute
		fmt.Fprintf(t, "%.3f\t%s\t%.1f\t%.1f\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n",
			minute.Seats, missedSeats(e.MaybeMissed.SeatSeconds/ledger.Memory.Seconds()), minute.Requests, minute.Rejected, byteSize(minute.Bytes),
			e.OpenStreams, e.Sources, cell(e.Verb), cell(e.Resource), cell(e.User), cell(e.UserAgent))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if s.Evicted == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n±: seats a client may have held before it was listed. No client that is not kept costs more than %s seats (%d kept, %d made way).\n",
		missedSeats(s.Floor.SeatSeconds/ledger.Memory.Seconds()), s.MaxClients, s.Evicted)
	return err
}

// writeAudit is a file's ranking: totals, because the whole file is one period.
func writeAudit(w io.Writer, r *ledger.AuditReport) error {
	span := r.Requests.Taken.Sub(first(r.Requests.Since, r.Streams.Since)).Round(time.Second)
	fmt.Fprintf(w, "%d events over %s, %.1f seat-seconds (time executing; one seat each)\n", r.Counted, span, r.Requests.Total.SeatSeconds)
	columns := keyColumns(r.By)
	if len(r.Requests.Entries) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\nSEAT-SECONDS\t±\tSHARE\tREQUESTS\t±\tMEAN\t429\t5XX\tSOURCES\t"+columns.head)
		for i := range r.Requests.Entries {
			e := &r.Requests.Entries[i]
			fmt.Fprintf(t, "%.2f\t%s\t%s\t%d\t%d\t%s\t%d\t%d\t%d\t%s\n",
				e.SeatSeconds, missedSeats(e.MaybeMissed.SeatSeconds), share(e.SeatSeconds, r.Requests.Total.SeatSeconds),
				e.Requests, e.MaybeMissed.Requests, mean(e.SeatSeconds, e.Requests), e.Codes["429"], e.Codes["5xx"], e.Sources, columns.cells(&e.Key))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if len(r.Streams.Entries) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nWatches and other streams, by number; what their initial events cost is not in the log:")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "OPENED\t±\tMEAN OPEN\t429\t5XX\tSOURCES\t"+columns.head)
	for i := range r.Streams.Entries {
		e := &r.Streams.Entries[i]
		fmt.Fprintf(t, "%d\t%d\t%s\t%d\t%d\t%d\t%s\n", e.Requests, e.MaybeMissed.Requests, mean(e.UpstreamSeconds, e.Requests),
			e.Codes["429"], e.Codes["5xx"], e.Sources, columns.cells(&e.Key))
	}
	return t.Flush()
}

// first is the earlier of two times, leaving out one that is not set.
func first(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// keyed writes the part of a key that is ranked by.
type keyed struct {
	head  string
	cells func(*ledger.Key) string
}

func keyColumns(by ledger.Dimension) keyed {
	switch by {
	case ledger.ByUser:
		return keyed{"USER", func(k *ledger.Key) string { return cell(k.User) }}
	case ledger.ByUserAgent:
		return keyed{"USER AGENT", func(k *ledger.Key) string { return cell(k.UserAgent) }}
	case ledger.ByVerb:
		return keyed{"VERB", func(k *ledger.Key) string { return cell(k.Verb) }}
	case ledger.ByResource:
		return keyed{"RESOURCE", func(k *ledger.Key) string { return cell(k.Resource) }}
	}
	return keyed{"VERB\tRESOURCE\tUSER\tUSER AGENT", func(k *ledger.Key) string {
		return strings.Join([]string{cell(k.Verb), cell(k.Resource), cell(k.User), cell(k.UserAgent)}, "\t")
	}}
}

// cell makes a name that a client chose safe to print: no control characters, no empty column.
func cell(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func missedSeats(seats float64) string {
	switch {
	case seats == 0:
		return "0"
	case seats < 0.001:
		return "<0.001"
	}
	return fmt.Sprintf("%.3f", seats)
}

func share(part, whole float64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*part/whole)
}

func mean(seconds float64, n int64) string {
	if n == 0 {
		return "-"
	}
	d := time.Duration(seconds / float64(n) * float64(time.Second))
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

func byteSize(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%.0f B", n)
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}
