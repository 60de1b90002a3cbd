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
)

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

// askGate gets what a gate's admin endpoint says under a path.
func askGate[T any](ctx context.Context, client *http.Client, path string) (*T, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gate"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		var in *url.Error
		if errors.As(err, &in) {
			err = in.Err
		}
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s: %.200s", response.Status, body)
	}
	answer := new(T)
	if err := json.Unmarshal(body, answer); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", err)
	}
	return answer, nil
}

// gateView is how a user wants to see what a gate says.
type gateView struct {
	socket, output string
	// again, unless 0, shows it every so often until the context ends.
	again time.Duration
}

// viewGate shows what a gate says under a path, as JSON or as write does.
func viewGate[T any](ctx context.Context, env *Env, v gateView, path string, write func(io.Writer, *T) error) error {
	client := socketClient(v.socket)
	defer client.CloseIdleConnections()
	ticks := make(<-chan time.Time)
	if v.again > 0 {
		ticker := time.NewTicker(v.again)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for {
		answer, err := askGate[T](ctx, client, path)
		switch {
		case err != nil:
			return withHint(fmt.Errorf("asking the gate at %s: %w", v.socket, err),
				"is the gate running on this host, and are you the user it runs as? --socket names another one")
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
