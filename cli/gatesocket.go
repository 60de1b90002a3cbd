package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// gateView is how a user wants to see what a gate's admin socket answers.
type gateView struct {
	socket string
	n      int
	output string
	name   string // of the verb, for hints
	// again, unless 0, shows it every so often until the context ends.
	again time.Duration
}

func (v *gateView) flags(cmd *cobra.Command) {
	v.name = cmd.Name()
	flags := cmd.Flags()
	flags.StringVar(&v.socket, "socket", defaultSocket, "the gate's admin socket")
	flags.StringVarP(&v.output, "output", "o", "table", "table | json")
	_ = cmd.MarkFlagFilename("socket")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// limitFlag adds how many lines are shown.
func (v *gateView) limitFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().IntVarP(&v.n, "limit", "n", 20, usage)
	_ = cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions)
}

// fetch checks the flags and reads the answer of a path into result.
func (v *gateView) fetch(ctx context.Context, path string, result any) error {
	hint := "see 'seakeep gate " + v.name + " --help'"
	switch {
	case v.output != "table" && v.output != "json":
		return usageError(fmt.Errorf("output must be table or json, got %q", v.output), hint)
	case v.n < 0:
		return usageError(fmt.Errorf("limit must be ≥ 0, got %d", v.n), hint)
	}
	client := socketClient(v.socket)
	defer client.CloseIdleConnections()
	if err := fetchJSON(ctx, client, path, result); err != nil {
		return withHint(fmt.Errorf("asking the gate at %s: %w", v.socket, err),
			"is the gate running on this host, and are you the user it runs as? --socket names another one")
	}
	return nil
}

// viewGate shows what a gate says under a path, as JSON or as write does.
func viewGate[T any](ctx context.Context, env *Env, v *gateView, path string, write func(io.Writer, *T) error) error {
	ticks := make(<-chan time.Time)
	if v.again > 0 {
		ticker := time.NewTicker(v.again)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for {
		answer := new(T)
		err := v.fetch(ctx, path, answer)
		switch {
		case err != nil:
			return err
		case v.output == "json":
			err = writeJSON(env.Stdout, answer, v.again == 0)
		default:
			if v.again > 0 {
				fmt.Fprint(env.Stdout, "\x1b[H\x1b[2J") // home, clear: as watch(1)
			}
			err = write(env.Stdout, answer)
		}
		if err != nil || v.again == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return nil // the user has seen enough
		case <-ticks:
		}
	}
}

// socketClient speaks HTTP over a unix socket.
func socketClient(socket string) *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		},
	}
}

// fetchJSON reads what a gate's admin socket answers.
func fetchJSON(ctx context.Context, client *http.Client, path string, result any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gate"+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		var in *url.Error
		if errors.As(err, &in) {
			err = in.Err
		}
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s: %.200s", response.Status, body)
	}
	if err := json.Unmarshal(body, result); err != nil {
		return fmt.Errorf("reading its answer: %w", err)
	}
	return nil
}
