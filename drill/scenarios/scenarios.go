// Package scenarios holds the drills that ship with Seakeep.
package scenarios

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
)

//go:embed *.yaml
var files embed.FS

// ErrUnknown is returned by Load for a name that no scenario has.
var ErrUnknown = errors.New("no such scenario")

// Names returns the scenarios' names, sorted.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic("BUG: reading embedded files: " + err.Error())
	}
	var names []string
	for _, entry := range entries {
		names = append(names, strings.TrimSuffix(entry.Name(), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// Load returns a scenario, defaulted and valid, and its own copy each time.
func Load(name string) (*v1alpha1.Drill, error) {
	data, err := files.ReadFile(name + ".yaml")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, fmt.Errorf("%w: %q; there are %s", ErrUnknown, name, strings.Join(Names(), ", "))
	}
	if err != nil {
		return nil, err
	}
	d, _, err := config.LoadKind[*v1alpha1.Drill]("-", bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("BUG: the scenario %s that ships with Seakeep is not valid: %w", name, err)
	}
	return d, nil
}
