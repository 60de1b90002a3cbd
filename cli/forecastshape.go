package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/forecast/shape"
)

// newForecastShape is `seakeep forecast shape`.
func newForecastShape(env *Env) *cobra.Command {
	var cluster clusterTarget
	var servers []string
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "shape",
		Short: "Write how large a cluster is, without contents and names, for a lab to be built in its shape",
		Long: `Reads the API servers' metrics twice and writes a ClusterShape: how many objects there are of each kind and how large, how often
is asked for what, how many watch. No object is read. Groups and resources that are not Kubernetes' own are numbered. It can be
given to somebody who must not know the cluster; read it before you do.

'seakeep lab up --shape' builds it. Nothing is changed anywhere.`,
		Example: `  seakeep forecast shape --kubeconfig production.kubeconfig > shape.yaml
  seakeep lab up --shape shape.yaml
  seakeep forecast rehearse --exec ./agent --nodes 27 --for production=300`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if length < time.Second || length > time.Hour {
				return usageError(fmt.Errorf("--for must be 1s to 1h, got %s", length), "see 'seakeep forecast shape --help'")
			}
			return runForecastShape(cmd.Context(), env, &cluster, servers, length)
		},
	}
	cluster.flags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&servers, "server", nil, "an API server's `URL`, read with the kubeconfig's credentials; name every one (default the kubeconfig's server)")
	flags.DurationVar(&length, "for", time.Minute, "time between the two readings: rates are over it")
	_ = cmd.RegisterFlagCompletionFunc("server", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.NoFileCompletions)
	return cmd
}

func runForecastShape(ctx context.Context, env *Env, cluster *clusterTarget, servers []string, length time.Duration) error {
	if err := checkURLs("an API server", servers, "see 'seakeep forecast shape --help'"); err != nil {
		return err
	}
	config, err := cluster.config(env)
	if err != nil {
		return err
	}
	sources, err := apiServers(config, servers)
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range sources {
			utilnet.CloseIdleConnectionsFor(s.client.Transport)
		}
	}()
	read := func() ([]shape.Reading, error) {
		readings, errs := make([]shape.Reading, len(sources)), make([]error, len(sources))
		for i := range sources {
			readings[i], errs[i] = readShape(ctx, &sources[i])
		}
		return readings, errors.Join(errs...)
	}
	earlier, err := read()
	if err != nil {
		return withHint(err, "the user needs the right to GET /metrics")
	}
	fmt.Fprintf(env.Stderr, "read %d API servers; reading them again in %s\n", len(sources), length)
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
	}
	later, err := read()
	if err != nil {
		return err
	}
	s, err := shape.Of(earlier, later)
	if err != nil {
		return withHint(err, "try again in a minute")
	}
	text, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	_, err = env.Stdout.Write(text)
	return err
}

func readShape(ctx context.Context, s *metricsSource) (shape.Reading, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return shape.Reading{}, fmt.Errorf("reading the metrics of %s: %w", s.name, err)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return shape.Reading{}, fmt.Errorf("reading the metrics of %s: %w", s.name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return shape.Reading{}, fmt.Errorf("reading the metrics of %s: it answers %s", s.name, response.Status)
	}
	one, err := shape.Read(response.Body, time.Now())
	if err != nil {
		return shape.Reading{}, fmt.Errorf("reading the metrics of %s: %w", s.name, err)
	}
	return one, nil
}
