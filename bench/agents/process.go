package agents

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// arg makes a program the agents' process.
const arg = "agents"

// Become turns this program into the agents' process if Start started it, and does not return then. A benchmark's main
// begins with it.
func Become() {
	if len(os.Args) != 2 || os.Args[1] != arg {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := serve(ctx, os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is the agents' process: a Spec comes in, Events go out; the end of the input releases what is held.
func serve(ctx context.Context, in io.Reader, out io.Writer) error {
	var spec Spec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return fmt.Errorf("reading what the agents do: %w", err)
	}
	released := make(chan struct{})
	go func() {
		defer close(released)
		_, _ = io.Copy(io.Discard, in)
	}()
	encoder := json.NewEncoder(out)
	run := Run
	if spec.Does == Inform {
		run = RunInformers
	}
	outcome, err := run(ctx, &spec, released, func(event string) { _ = encoder.Encode(Event{Event: event}) })
	if err != nil {
		return err
	}
	return encoder.Encode(Event{Event: Results, Outcome: outcome})
}

// Process is agents in a process of their own, which gives way to what is measured.
type Process struct {
	command *exec.Cmd
	in      io.Closer
	events  *json.Decoder
	stderr  bytes.Buffer
	results *Outcome // when they came
}

// Start starts this program once more, as the agents' process; see Become.
func Start(ctx context.Context, spec *Spec) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	p := &Process{command: exec.CommandContext(ctx, "nice", "-n", "10", self, arg)}
	p.command.Stderr = &p.stderr
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the agents: %w", err)
	}
	in, err := p.command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the agents: %w", err)
	}
	p.in, p.events = in, json.NewDecoder(out)
	if err := p.command.Start(); err != nil {
		return nil, fmt.Errorf("starting the agents: %w", err)
	}
	if err := json.NewEncoder(in).Encode(spec); err != nil {
		p.Stop()
		return nil, fmt.Errorf("telling the agents what they do: %w: %s", err, p.stderr.Bytes())
	}
	return p, nil
}

// Await waits for an event; Results come with an outcome.
func (p *Process) Await(event string) (*Outcome, error) {
	var got Event
	if err := p.events.Decode(&got); err != nil {
		p.Stop() // it has ended, and its last words are complete only now
		return nil, fmt.Errorf("waiting for the agents: %w: %s", err, p.stderr.Bytes())
	}
	if got.Event == Results {
		p.results = got.Outcome
	}
	if got.Event != event {
		return nil, fmt.Errorf("waiting for the agents: %s came instead of %s", got.Event, event)
	}
	if event == Results && got.Outcome == nil {
		return nil, errors.New("the agents came back with nothing")
	}
	return got.Outcome, nil
}

// Release ends what Spec.Hold holds.
func (p *Process) Release() { _ = p.in.Close() }

// Finish releases the agents and reads what they still say until the results. Nobody may be in Await.
func (p *Process) Finish() (*Outcome, error) {
	p.Release()
	for p.results == nil {
		if _, err := p.Await(Results); err != nil && p.command.ProcessState != nil {
			return nil, err
		}
	}
	return p.results, nil
}

// Stop ends the process. It may be called more than once.
func (p *Process) Stop() {
	_ = p.command.Cancel() // has ended, most often
	_ = p.command.Wait()
}
