package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/gate/relay"
)

// newGateRelay is `seakeep gate relay`.
func newGateRelay(env *Env) *cobra.Command {
	var view gateView
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Show which reads are shared: readers, hit ratio, bytes saved, age, and what is forwarded and why",
		Long: `Shows what a gate with the field 'relay' in its configuration shares between clients: LISTs and WatchLists by key (path,
query, media type, encoding), shared watches, LISTs kept on disk for when every API server is gone, what finding out who
may read took, and why other requests for shared resources went to the API server untouched.

Counts are since the gate started. HIT is the share of answers that took no read of the API server of their own.`,
		Example: `  seakeep gate relay
  seakeep gate relay --limit 0 -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runGateRelay(cmd.Context(), env, &view) },
	}
	view.flags(cmd)
	view.limitFlag(cmd, "lines to show of keys and of watches, 0 for all")
	return cmd
}

func runGateRelay(ctx context.Context, env *Env, view *gateView) error {
	return viewGate(ctx, env, view, "/v1/relay", func(w io.Writer, status *relay.Status) error {
		if !status.Enabled {
			fmt.Fprintln(env.Stderr, "nothing is shared: the gate's configuration has no field 'relay'")
			return nil
		}
		return writeRelay(w, status, view.n)
	})
}

// writeRelay is a status as tables: what sharing saved first, then why not more was shared.
func writeRelay(w io.Writer, s *relay.Status, n int) error {
	total := &s.Total
	fmt.Fprintf(w, "%s  %d answers of %d reads (%s), %s delivered, %s saved; %s of %s held\n",
		s.Taken.Format(time.TimeOnly), total.Answers, total.UpstreamReads, hitRatio(total), byteSize(float64(total.BytesDelivered)),
		byteSize(float64(total.BytesSaved)), byteSize(float64(s.Memory.Used)), byteSize(float64(s.Memory.Max)))
	for _, part := range []func(io.Writer, *relay.Status, int) error{writeRelayKeys, writeRelayWatches, writeRelaySurvive} {
		if err := part(w, s, n); err != nil {
			return err
		}
	}
	a := &s.Access
	fmt.Fprintf(w, "\nReviews: %d of tokens (%d already known), %d of access (%d already known), %d could not be had\n",
		a.TokenReviews, a.TokensKnown, a.AccessReviews, a.AccessKnown, a.Errors)
	return writeForwarded(w, s.Forwarded)
}

func writeRelayKeys(w io.Writer, s *relay.Status, n int) error {
	if len(s.Keys) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nSAVED\tHIT\tANSWERS\tREADS\tREADERS\tWAITING\tAGE\tVERSION\tVERB\tRESOURCE\tPATH\tMEDIA TYPE\tENCODING")
	shown := limited(s.Keys, n)
	for i := range shown {
		k := &shown[i]
		verb := "list"
		if k.WatchList {
			verb = "watchlist"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", byteSize(float64(k.BytesSaved)), hitRatio(&k.Sharing), k.Answers,
			k.UpstreamReads, k.Readers, k.Waiting, age(k.AgeSeconds), cell(k.Version), verb, cell(k.Resource), where(k.Path, k.Query), clipped(k.MediaType), cell(k.Encoding))
	}
	return flushed(w, t, len(s.Keys)-len(shown), "keys")
}

func writeRelayWatches(w io.Writer, s *relay.Status, n int) error {
	if len(s.Watches) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nSUBSCRIBERS\tEVENTS\tDELIVERED\tDROPPED\tRING\tBYTES\tOLDEST\tNEWEST\tRESOURCE\tWATCH\tMEDIA TYPE")
	shown := limited(s.Watches, n)
	for i := range shown {
		v := &shown[i]
		path := where(v.Path, v.Query)
		if v.Filtered {
			path += " (filtered)"
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Subscribers, v.Events, v.Delivered, v.Dropped, v.RingEvents,
			byteSize(float64(v.RingBytes)), cell(v.Oldest), cell(v.Newest), cell(v.Resource), path, clipped(v.MediaType))
	}
	return flushed(w, t, len(s.Watches)-len(shown), "watches")
}

func writeRelaySurvive(w io.Writer, s *relay.Status, _ int) error {
	if len(s.Survive) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nKEPT ON DISK\tAGE\tBYTES\tVERSION\tSERVED NOW")
	for i := range s.Survive {
		v := &s.Survive[i]
		serving := "no"
		if v.Serving {
			serving = "yes: every API server is gone"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", cell(v.Resource), age(v.AgeSeconds), byteSize(float64(v.Bytes)), cell(v.Version), serving)
	}
	return t.Flush()
}

func writeForwarded(w io.Writer, forwarded map[string]int64) error {
	if len(forwarded) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nFORWARDED\tWHY")
	reasons := slices.SortedFunc(maps.Keys(forwarded), func(a, b string) int {
		return cmp.Or(cmp.Compare(forwarded[b], forwarded[a]), cmp.Compare(a, b))
	})
	for _, reason := range reasons {
		fmt.Fprintf(t, "%d\t%s\n", forwarded[reason], cell(reason))
	}
	return t.Flush()
}

// limited is the first n, or all where n is 0.
func limited[T any](all []T, n int) []T {
	if n == 0 {
		return all
	}
	return all[:min(n, len(all))]
}

func flushed(w io.Writer, t *tabwriter.Writer, more int, what string) error {
	if err := t.Flush(); err != nil {
		return err
	}
	if more > 0 {
		fmt.Fprintf(w, "and %d more %s; --limit 0 shows all\n", more, what)
	}
	return nil
}

// where is what is read: the query is the client's and may be long.
func where(path, query string) string {
	if query != "" {
		path += "?" + query
	}
	return clipped(cell(path))
}

func hitRatio(s *relay.Sharing) string {
	if s.Answers == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*s.HitRatio)
}

func age(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	d := time.Duration(*seconds * float64(time.Second))
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
