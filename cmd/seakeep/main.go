// Command seakeep keeps Kubernetes serving, steerable and recoverable when its control plane is overloaded or gone.
package main

import (
	"os"

	"github.com/seakeep/seakeep/cli"
)

func main() { os.Exit(cli.Main()) }
