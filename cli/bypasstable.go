package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/seakeep/seakeep/gate/bypass"
)

// writeBypass answers the first question first: how much, and how surely.
func writeBypass(w io.Writer, r *bypass.Report, n int) error {
	t := &r.Total
	fmt.Fprintf(w, "ROUND THE GATES: %s of the requests (%s to %s)\n", percent(r.Share), percent(r.ShareAtLeast), percent(r.ShareAtMost))
	fmt.Fprintf(w, "In %.0f s %s answered %d requests, %d of them their own; %s forwarded %d, %d went round (%d to %d).\n",
		r.Seconds, counted(r.Servers, "API server"), t.APIServers, t.Self, counted(r.Gates, "gate"), t.Gates, t.Round, t.AtLeast, t.AtMost)
	for _, warning := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n", warning)
	}
	fmt.Fprintln(w, "\nBY VERB AND RESOURCE")
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows := firstOf(r.Rows, n)
	if len(rows) == 0 {
		fmt.Fprintln(tab, "  nothing")
	} else {
		fmt.Fprintln(tab, "  VERB\tRESOURCE\tROUND\tAT LEAST\tAT MOST\tSHARE\tGATES\tAPI SERVERS\tTHEIR OWN")
	}
	for _, row := range rows {
		fmt.Fprintf(tab, "  %s\t%s\t%d\t%d\t%d\t%s\t%d\t%d\t%d\n", printable(row.Verb), clipped(row.Resource), row.Round, row.AtLeast, row.AtMost,
			percent(row.Share()), row.Gates, row.APIServers, row.Self)
	}
	fmt.Fprintln(tab, more(len(r.Rows)-len(rows)))
	if err := tab.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "OPEN STREAMS THAT NO GATE HOLDS (the API servers' own are among them)")
	open := firstOf(r.Open, n)
	if len(open) == 0 {
		fmt.Fprintln(tab, "  none")
	} else {
		fmt.Fprintln(tab, "  VERB\tRESOURCE\tROUND\tGATES\tAPI SERVERS")
	}
	for _, row := range open {
		fmt.Fprintf(tab, "  %s\t%s\t%d\t%d\t%d\n", printable(row.Verb), clipped(row.Resource), row.Round, row.Gates, row.APIServers)
	}
	fmt.Fprintln(tab, more(len(r.Open)-len(open)))
	if err := tab.Flush(); err != nil {
		return err
	}
	return writeBypassClients(w, r)
}

func writeBypassClients(w io.Writer, r *bypass.Report) error {
	c := r.Clients
	if c == nil {
		_, err := fmt.Fprintln(w, "Who it is: run this with --audit-log on an API server's host.")
		return err
	}
	fmt.Fprintln(w, "BY CLIENT, FROM THE AUDIT LOG")
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(c.List) == 0 {
		fmt.Fprintln(tab, "  nobody")
	} else {
		fmt.Fprintln(tab, "  ROUND\tTHROUGH A GATE\tUSER\tUSER AGENT\tSOURCE")
	}
	for _, row := range c.List {
		fmt.Fprintf(tab, "  %d\t%d\t%s\t%s\t%s\n", row.Round, row.Gates, clipped(row.User), clipped(row.UserAgent), clipped(row.Source))
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "  %d events in the interval: %d round, %d through a gate, %d the API servers' own", c.Events, c.Round, c.Gates, c.Self)
	if bad := c.Malformed + c.TooLong + c.Torn; bad > 0 {
		fmt.Fprintf(w, "; %d lines could not be read", bad)
	}
	_, err := fmt.Fprintln(w)
	return err
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func firstOf[T any](list []T, n int) []T {
	if n > 0 && n < len(list) {
		return list[:n]
	}
	return list
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf("  and %d more: --limit 0 shows all\n", n)
}
