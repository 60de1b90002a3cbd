package cli

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is stamped by the Makefile; a program built with plain `go install` takes its module's version instead.
var version string

// versionInfo is what `seakeep version -o json` prints.
type versionInfo struct {
	Version   string `json:"version"`
	Revision  string `json:"revision,omitempty"` // of the source, when Go knew it
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
	// Kubernetes is the version of the Kubernetes libraries linked in.
	Kubernetes string `json:"kubernetes,omitempty"`
}

func newVersion(env *Env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Example: "  seakeep version -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			v := versionOf(version, info)
			switch output {
			case "json":
				encoder := json.NewEncoder(env.Stdout)
				encoder.SetIndent("", "  ")
				return encoder.Encode(v)
			case "table":
				_, err := fmt.Fprintf(env.Stdout, "seakeep %s (%s, %s, Kubernetes libraries %s)\n", v.Version, v.GoVersion, v.Platform, v.Kubernetes)
				return err
			default:
				return usageError(fmt.Errorf("output must be table or json, got %q", output), "see 'seakeep version --help'")
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table | json")
	return cmd
}

// versionOf joins what was stamped with what the Go toolchain recorded; info may be nil.
func versionOf(stamped string, info *debug.BuildInfo) versionInfo {
	v := versionInfo{Version: stamped, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info != nil {
		if v.Version == "" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
		for _, dep := range info.Deps {
			if dep.Path == "k8s.io/apimachinery" {
				v.Kubernetes = dep.Version
			}
		}
	}
	if v.Version == "" || v.Version == "(devel)" {
		v.Version = "devel"
	}
	return v
}
