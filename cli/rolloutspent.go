package cli

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/rollout/analysis"
	"github.com/seakeep/seakeep/signals"
)

// spentBy reads for how long requests of a service account have executed so far on all of a cluster's API servers: those that the
// scale gate's flow schema counts, and those in jail.
func spentBy(account string, servers []analysis.Endpoint) func(context.Context) (float64, time.Time, error) {
	schemas := []string{observe.Schema{ServiceAccount: account}.Name(), apf.Jail{ServiceAccount: account}.Name()}
	return func(ctx context.Context) (seconds float64, read time.Time, err error) {
		each := make([]float64, len(servers))
		all, ctx := errgroup.WithContext(ctx)
		for i, server := range servers {
			all.Go(func() error {
				body, err := server.Metrics(ctx)
				if err != nil {
					return err
				}
				flows, err := signals.ReadFlows(bytes.NewReader(body), time.Now())
				if err != nil {
					return fmt.Errorf("reading the metrics of %s: %w", server.Name, err)
				}
				for _, name := range schemas {
					each[i] += flows.Schemas[name].ExecutionSeconds
				}
				return nil
			})
		}
		err = all.Wait()
		for _, s := range each {
			seconds += s
		}
		return seconds, time.Now(), err
	}
}
