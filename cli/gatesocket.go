package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// gateView are the flags of the verbs that show something a gate's admin socket answers.
type gateView struct {
	socket string
	n      int
	output string
	name   string // of the verb, for hints
}

func (v *gateView) flags(cmd *cobra.Command) {
	v.name = cmd.Name()
	flags := cmd.Flags()
	flags.StringVar(&v.socket, "socket", defaultSocket, "the gate's admin socket")
	flags.IntVarP(&v.n, "limit", "n", 20, "lines to show, 0 for all")
	flags.StringVarP(&v.output, "output", "o", "table", "table | json")
	_ = cmd.MarkFlagFilename("socket")
	_ = cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
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
