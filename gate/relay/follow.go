package relay

import (
	"context"
	"net/http"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/upstream"
)

// hub shares watches.
type hub interface {
	Run(ctx context.Context)
	Current(path, labels, fields string, version uint64) bool
	Flush(group, resource string)
}

func (r *Relay) follow(http.ResponseWriter, *http.Request, *flow.Request, *asked, user.Info, func(upstream.Result)) reason {
	return forwardedLegacyWatch
}

func (d *delivery) followOn(*http.Request, *flow.Request, *asked, user.Info, uint64, *upstream.Result) {
}

type nohub struct{}

func (nohub) Run(ctx context.Context)                     { <-ctx.Done() }
func (nohub) Current(string, string, string, uint64) bool { return false }
func (nohub) Flush(string, string)                        {}
