package preflight

import (
	"slices"
	"strings"
)

// Flags are the API servers' command lines: for each flag its distinct values over all of them.
type Flags struct {
	// APIServers is the number of pods the flags are of.
	APIServers int                 `json:"apiServers"`
	Values     map[string][]string `json:"values"`
}

// Bounds on a pod's command line, which is somebody else's.
const (
	maxArguments = 500
	maxArgument  = 8 << 10
)

// parseArgs reads one command line: --name=value, --name value, --name.
func parseArgs(args []string) map[string]string {
	flags := map[string]string{}
	for i := 0; i < min(len(args), maxArguments); i++ {
		name, ok := strings.CutPrefix(args[i], "--")
		name, value, has := strings.Cut(name, "=")
		if !ok || name == "" || len(args[i]) > maxArgument {
			continue
		}
		if !has {
			value = "true"
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") && len(args[i+1]) <= maxArgument {
				i++
				value = args[i]
			}
		}
		flags[name] = value
	}
	return flags
}

// mergeFlags brings the command lines of several API servers together.
func mergeFlags(commands [][]string) Flags {
	merged := Flags{APIServers: len(commands), Values: map[string][]string{}}
	for _, args := range commands {
		for name, value := range parseArgs(args) {
			if !slices.Contains(merged.Values[name], value) {
				merged.Values[name] = append(merged.Values[name], value)
			}
		}
	}
	for _, values := range merged.Values {
		slices.Sort(values)
	}
	return merged
}

// value is the flag's when every API server that sets it sets it the same.
func (f Flags) value(name string) (string, bool) {
	if values := f.Values[name]; len(values) == 1 {
		return values[0], true
	}
	return "", false
}

// differing are the flags with more than one value, those that must differ from host to host left out.
func (f Flags) differing() []string {
	own := []string{"advertise-address", "bind-address", "etcd-servers", "etcd-certfile", "etcd-keyfile", "tls-cert-file", "tls-private-key-file"}
	var names []string
	for name, values := range f.Values {
		if len(values) > 1 && !slices.Contains(own, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
