// Package access says who asks for a shared answer and whether they may have it. The word is the API server's alone: a
// bearer token is reviewed (TokenReview), every right is reviewed (SubjectAccessReview), and what is remembered of a
// review is bounded in time. Whatever cannot be found out is an error, and the request is then forwarded: nothing here
// turns an outage into a grant or a refusal.
//
// It also says which API groups are the API server's own. What an aggregated API server answers may depend on who asks
// in ways no review shows, so it is never shared.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	webhookmetrics "k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// reviewTimeout bounds one review. A client waits for it before its request is forwarded, so it is short: an API server
// that hangs must not hang the clients twice.
const reviewTimeout = 3 * time.Second

// verdicts is how many grants and denials are remembered at most. With 300 agents of a few kinds it holds a handful; who
// asks for a thousand names loses the oldest, and is reviewed again.
const verdicts = 16384

// ErrUnknown says that the caller is nobody the API server has vouched for here: anonymous, impersonating, or with a
// token it does not take.
var ErrUnknown = errors.New("the caller is not known")

// ErrSpared says that the API server was not asked, because it just failed to answer or is being asked too much already.
var ErrSpared = errors.New("the API server was not asked: its last reviews failed, or too many are waiting")

// Recorder is told what the API server said of a right, each time it was asked and not only remembered. It is called from
// many goroutines and must not block; it must not change what it is given.
type Recorder interface {
	Reviewed(who user.Info, f *flow.Request, allowed bool)
}

// Options configure an Access.
type Options struct {
	// Upstream is the gate's own way to the API servers, as an identity that may create reviews and list API services.
	Upstream http.RoundTripper
	// Reviews bound how long an answer is believed; they must be complete (defaulted).
	Reviews v1alpha1.RelayReviews
	// Recorder may be nil.
	Recorder Recorder
	Log      *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// Access asks the API server who callers are and what they may. It is safe for concurrent use. Run must run for API
// groups to stay known, and ends what is under way when it ends.
type Access struct {
	reviews  v1alpha1.RelayReviews
	recorder Recorder
	log      *slog.Logger
	metrics  *metrics
	tally    tally
	upstream http.RoundTripper

	// known reviews tokens that were verified offline, other those that could not be. They are apart so that a crowd with
	// invented tokens waits for itself only.
	known, other authenticator.Request

	authorizer authorizer.Authorizer
	verdicts   *utilcache.LRUExpireCache
	asking     singleflight.Group
	access     *patience

	listing  *patience
	services atomic.Pointer[services]
	lookup   singleflight.Group

	// ended is closed, by the context, when Run ends.
	ended context.Context
	end   context.CancelFunc
}

// New returns an Access that has asked nothing yet.
func New(o Options) (*Access, error) {
	a := &Access{
		reviews:  o.Reviews,
		recorder: o.Recorder,
		log:      o.Log,
		metrics:  newMetrics(o.Registerer),
		upstream: noting{o.Upstream},
		verdicts: utilcache.NewLRUExpireCache(verdicts),
		access:   newPatience(64),
		listing:  newPatience(1),
	}
	a.ended, a.end = context.WithCancel(context.Background())
	config := &rest.Config{
		Host: "https://upstream.invalid", // the gate's own way picks the server
		QPS:  -1,                         // bounded here, by patience; five a second would be a queue of minutes
		ContentConfig: rest.ContentConfig{
			ContentType:        "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
		},
	}
	client := &http.Client{Transport: a.upstream}
	authentication, err := authenticationclient.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("making the client for token reviews: %w", err)
	}
	if a.known, err = a.tokens(authentication, newPatience(64)); err != nil {
		return nil, err
	}
	if a.other, err = a.tokens(authentication, newPatience(16)); err != nil {
		return nil, err
	}
	authorization, err := authorizationclient.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("making the client for access reviews: %w", err)
	}
	// Verdicts are remembered here and not there (a TTL of 0): two memories would add up to twice the time.
	a.authorizer, err = webhook.NewFromInterface(authorization, 0, 0, once, authorizer.DecisionNoOpinion, webhookmetrics.NoopAuthorizerMetrics{}, nil)
	if err != nil {
		return nil, fmt.Errorf("making the authorizer: %w", err)
	}
	return a, nil
}

// once is no retry: the request is forwarded instead, and the API server answers it.
var once = wait.Backoff{Steps: 1}

// Run keeps what is known about API groups fresh until the context ends, and then ends the reviews under way.
func (a *Access) Run(ctx context.Context) {
	defer a.end()
	a.refreshServices(ctx)
}
