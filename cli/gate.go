package cli

import (
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate"
	"github.com/seakeep/seakeep/internal/config"
)

func newGate(env *Env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "gate --config FILE",
		Short: "Stand in front of the API servers: limits, emergency rules, and who costs what",
		Long: `The gate takes every request to the API servers, recognises its caller, applies the limits, and forwards it.
It needs no API server to start, to be configured, or to stop. The configuration is reloaded when it or a file it
names changes; one that cannot be used is refused and the running one stays in force.

SIGTERM drains: no new connections, watches end cleanly, requests in flight finish. SIGHUP opens the access log again.`,
		Example: `  seakeep gate --config gate.yaml
  seakeep config check gate.yaml     # what would be refused, and where
  seakeep config defaults            # the shipped limits
  seakeep gate top                   # who costs what, live`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError(errors.New("--config is required"), "print an example with 'seakeep config defaults'")
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
			g, err := gate.New(gate.Options{
				Load: func() (*v1alpha1.GateConfiguration, *config.Document, error) {
					return config.LoadKind[*v1alpha1.GateConfiguration](file, env.Stdin)
				},
				ConfigFile: file,
				Gatherer:   registry,
				Registerer: registry,
				Version:    versionOf(version, nil).Version,
				Stdout:     env.Stdout,
				Log:        env.Log(),
			})
			if err != nil {
				return usageError(err, "check the file with 'seakeep config check "+file+"'")
			}
			// Large LISTs pass through in small buffers; a heap that collects early costs more than it saves.
			if env.Getenv("GOGC") == "" {
				debug.SetGCPercent(200)
			}
			defer onHangup(g.ReopenLogs)()
			return g.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "`file` with a GateConfiguration")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	cmd.AddCommand(newGateTop(env), newGateRelay(env), newGateOverload(env), newGateClamp(env), newGateBudgets(env), newGateShadow(env), newGateReplayAudit(env),
		newGatePeers(env), newGateAPF(env), newGateBypass(env), newGateWatchdog(env))
	return cmd
}

// onHangup calls f at every SIGHUP, until the function it returns is called.
func onHangup(f func()) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hangups {
			f()
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(hangups)
		<-done
	}
}
