package cli

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// clusterTarget is which cluster a verb reads.
type clusterTarget struct {
	kubeconfig, context string
}

func (t *clusterTarget) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&t.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&t.context, "context", "", "context of the kubeconfig (default its current one)")
	_ = cmd.MarkFlagFilename("kubeconfig")
	_ = cmd.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		config, err := clientcmd.LoadFromFile(t.kubeconfig)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for name := range config.Contexts {
			names = append(names, name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// config reads the kubeconfig. Nothing is asked of the cluster.
func (t *clusterTarget) config(env *Env) (*rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: t.kubeconfig}
	if t.kubeconfig == "" {
		if rules.Precedence = filepath.SplitList(env.Getenv("KUBECONFIG")); len(rules.Precedence) == 0 {
			rules.Precedence = []string{filepath.Join(env.Getenv("HOME"), ".kube", "config")}
		}
	}
	client := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: t.context})
	config, err := client.ClientConfig()
	if err != nil {
		hint := "--kubeconfig names the file, --context one of its contexts"
		if clientcmd.IsEmptyConfig(err) {
			err = errors.New("there is no kubeconfig")
		}
		return nil, usageError(fmt.Errorf("reading the kubeconfig: %w", err), hint)
	}
	config.UserAgent = "seakeep/" + versionOf(version, nil).Version
	return config, nil
}
