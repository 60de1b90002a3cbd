package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// The desk is how other shells speak with the process that has the journal: they lay down orders as files, and read the view it
// writes. So they need neither the process nor its clusters, and an order given while nothing runs is found at the next start.

// Verb is what an order asks for.
type Verb string

// The orders.
const (
	Pause    Verb = "pause"
	Resume   Verb = "resume"
	Approve  Verb = "approve"
	Abort    Verb = "abort"
	Rollback Verb = "rollback"
)

var verbs = []Verb{Pause, Resume, Approve, Abort, Rollback}

// Order is one order of a human.
type Order struct {
	Run  string `json:"run"`
	Verb Verb   `json:"verb"`
	// Task is what is approved, as TaskKey.String; empty: whatever waits.
	Task string `json:"task,omitempty"`
	// By and Why are for the record.
	By  string    `json:"by"`
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"`
}

const maxOrder = 16 << 10

var runName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,98}[a-z0-9])?$`)

// ParseOrder reads an order strictly: whoever may write to the folder may write anything.
func ParseOrder(data []byte) (Order, error) {
	var o Order
	if len(data) > maxOrder {
		return o, fmt.Errorf("it is larger than %d bytes", maxOrder)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); err != nil {
		return Order{}, err
	}
	switch {
	case decoder.More():
		return Order{}, errors.New("something follows the order")
	case !slices.Contains(verbs, o.Verb):
		return Order{}, fmt.Errorf("verb must be one of %v, got %q", verbs, o.Verb)
	case !runName.MatchString(o.Run):
		return Order{}, fmt.Errorf("run must be a run's id, got %.100q", o.Run)
	case o.Task != "" && o.Verb != Approve:
		return Order{}, fmt.Errorf("task goes with approve, not with %s", o.Verb)
	}
	return o, nil
}

func ordersDir(dir string) string { return filepath.Join(dir, "orders") }

// Give lays an order down; it is on the disk when Give returns.
func Give(dir string, o Order) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if _, err := ParseOrder(data); err != nil {
		return fmt.Errorf("giving an order: %w", err)
	}
	if err := os.MkdirAll(ordersDir(dir), 0o700); err != nil {
		return fmt.Errorf("giving an order: %w", err)
	}
	name := fmt.Sprintf("%020d-%s.json", o.At.UnixNano(), o.Verb)
	if err := renameio.WriteFile(filepath.Join(ordersDir(dir), name), data, 0o600); err != nil {
		return fmt.Errorf("giving an order: %w", err)
	}
	return nil
}

// Placed is an order with the file it lies in.
type Placed struct {
	Order
	file string
}

// Orders reads what lies there, the oldest first, each with its error when it cannot be read. It is taken away with Take.
func Orders(dir string) (orders []Placed, bad map[string]error, err error) {
	entries, err := os.ReadDir(ordersDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading orders: %w", err)
	}
	bad = map[string]error{}
	for _, e := range entries { // sorted by name, which begins with the time
		if !strings.HasSuffix(e.Name(), ".json") || !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(ordersDir(dir), e.Name())
		data, err := os.ReadFile(path)
		if err == nil {
			var o Order
			if o, err = ParseOrder(data); err == nil {
				orders = append(orders, Placed{Order: o, file: path})
				continue
			}
		}
		bad[path] = err
	}
	return orders, bad, nil
}

// Take takes an order away, once it is carried out.
func Take(p Placed) error {
	if err := os.Remove(p.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("taking an order away: %w", err)
	}
	return nil
}

// Reject puts an order that cannot be read aside.
func Reject(path string) error { return os.Rename(path, path+".bad") }

func viewFile(dir, run string) string { return filepath.Join(dir, "views", run+".json") }

// WriteView writes what other shells are shown of a run. It replaces the one before as a whole.
func WriteView(dir, run string, view any) error {
	data, err := json.Marshal(view)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "views"), 0o700); err != nil {
		return fmt.Errorf("writing the view of run %s: %w", run, err)
	}
	if err := renameio.WriteFile(viewFile(dir, run), data, 0o600); err != nil {
		return fmt.Errorf("writing the view of run %s: %w", run, err)
	}
	return nil
}

// ReadView reads it.
func ReadView(dir, run string, view any) error {
	data, err := os.ReadFile(viewFile(dir, run))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("run %s: %w", run, ErrNoRun)
	}
	if err == nil {
		err = json.Unmarshal(data, view)
	}
	if err != nil {
		return fmt.Errorf("reading the view of run %s: %w", run, err)
	}
	return nil
}

// Views names the runs that have one.
func Views(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "views"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the views: %w", err)
	}
	var runs []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && runName.MatchString(name) {
			runs = append(runs, name)
		}
	}
	return runs, nil
}
