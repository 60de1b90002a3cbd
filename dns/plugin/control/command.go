package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/seakeep/seakeep/dns/guard"
)

// DefaultSocket is where the sub-commands look for the server.
const DefaultSocket = "/run/seakeep/dns.sock"

const usage = `Examples:
  seakeep-dns state                                  # what the answers are worth
  seakeep-dns guard show                             # which removals are held
  seakeep-dns guard release --namespace shop         # apply those of a namespace
  seakeep-dns guard release --namespace shop --name web
  seakeep-dns guard release --all

Flags:
  --socket PATH   the server's socket, as its option socket says (default ` + DefaultSocket + `)
  -o table|json   how to print (default table)
`

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// Is says whether the arguments are a sub-command, and not CoreDNS's flags.
func Is(args []string) bool { return len(args) > 0 && (args[0] == "guard" || args[0] == "state") }

// Run runs a sub-command and returns the exit code.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := run(ctx, args, stdout)
	var wrong usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return exitOK
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "error: %v\nhint: see seakeep-dns guard --help\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "error: %v\nhint: is the server running, with the option socket, and are you its user?\n", err)
	return exitFailure
}

type usageError struct{ error }

type command struct {
	socket, output        string
	namespace, name, kind string
	all                   bool
	out                   io.Writer
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	verb, args := args[0], args[1:]
	if verb == "guard" && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = verb+" "+args[0], args[1:]
	}
	c := &command{out: stdout}
	flags := flag.NewFlagSet("seakeep-dns "+verb, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.socket, "socket", DefaultSocket, "")
	flags.StringVar(&c.output, "o", "table", "")
	if verb == "guard release" {
		flags.StringVar(&c.namespace, "namespace", "", "")
		flags.StringVar(&c.name, "name", "", "")
		flags.StringVar(&c.kind, "kind", "", "")
		flags.BoolVar(&c.all, "all", false, "")
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError{err}
	}
	switch {
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("%q is not expected", flags.Arg(0))}
	case c.output != "table" && c.output != "json":
		return usageError{fmt.Errorf("-o must be table or json, got %q", c.output)}
	}
	switch verb {
	case "state":
		return c.state(ctx)
	case "guard show":
		return c.show(ctx)
	case "guard release":
		return c.release(ctx)
	}
	return usageError{fmt.Errorf("%q is no command: there are state, guard show and guard release", verb)}
}

func (c *command) state(ctx context.Context) error {
	var s State
	if raw, err := c.call(ctx, http.MethodGet, "/state", &s); err != nil || c.output == "json" {
		return c.raw(raw, err)
	}
	fmt.Fprintf(c.out, "state    %s\nage      %s\nsource   %s\ncluster  %s\nheld     %d\n",
		s.State, (time.Duration(s.AgeSeconds) * time.Second).String(), cmp.Or(s.Source, "none"), cmp.Or(s.Cluster, "unknown"), s.Held)
	return nil
}

func (c *command) show(ctx context.Context) error {
	var holds []guard.Hold
	if raw, err := c.call(ctx, http.MethodGet, "/guard", &holds); err != nil || c.output == "json" {
		return c.raw(raw, err)
	}
	table := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "KIND\tNAMESPACE\tNAME\tENDPOINTS\tREASON\tUNTIL")
	for _, h := range holds {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", h.Kind, h.Namespace, h.Name, h.Endpoints, h.Reason, h.Until.UTC().Format(time.RFC3339))
	}
	return table.Flush()
}

func (c *command) release(ctx context.Context) error {
	if c.all == (c.namespace != "" || c.name != "") {
		return usageError{errors.New("say what to release: --all, or --namespace, --name, or both")}
	}
	query := url.Values{"namespace": {c.namespace}, "name": {c.name}, "kind": {c.kind}}
	if c.all {
		query = url.Values{"all": {"true"}}
	}
	var answer struct{ Released int }
	if raw, err := c.call(ctx, http.MethodPost, "/guard/release?"+query.Encode(), &answer); err != nil || c.output == "json" {
		return c.raw(raw, err)
	}
	fmt.Fprintf(c.out, "%d held removals were applied\n", answer.Released)
	return nil
}

func (c *command) raw(raw []byte, err error) error {
	if err == nil {
		_, err = c.out.Write(raw)
	}
	return err
}

// maxAnswer bounds what is read: a hold is some 200 bytes.
const maxAnswer = 64 << 20

func (c *command) call(ctx context.Context, method, path string, into any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.socket)
	}}}
	request, err := http.NewRequestWithContext(ctx, method, "http://seakeep-dns"+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the server at %s: %w", c.socket, err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("asking the server at %s: %w", c.socket, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server at %s answers %s: %s", c.socket, answer.Status, strings.TrimSpace(string(raw)))
	}
	return raw, json.Unmarshal(raw, into)
}
