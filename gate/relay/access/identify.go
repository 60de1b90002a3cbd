package access

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/user"
	webhooktoken "k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
)

// badTokenFor is how long a token the API server did not take is not shown to it again. Short, because an API server that
// cannot read its keys, or whose own authenticator is away, says the same.
const badTokenFor = 5 * time.Second

// longestToken bounds what is sent for review, in bytes. Tokens have one or two thousand.
const longestToken = 16 << 10

// perTokenExtras are what stands in a single credential. With them in a review, 300 agents of one ServiceAccount would be
// 300 subjects.
var perTokenExtras = []string{
	serviceaccount.PodNameKey, serviceaccount.PodUIDKey, serviceaccount.NodeNameKey, serviceaccount.NodeUIDKey, user.CredentialIDKey,
}

// Identify says who sent the request: the caller of a verified certificate, or whom the API server takes the bearer token
// for. ErrUnknown is for everyone else; any other error says that the API server could not be asked. The caller's context
// bounds the waiting, as do 3 s.
func (a *Access) Identify(ctx context.Context, r *http.Request, f *flow.Request) (user.Info, error) {
	if identity.CarriesImpersonation(r.Header) {
		return nil, fmt.Errorf("%w: it acts as someone else", ErrUnknown)
	}
	if f.Caller.Certainty == flow.CertificateVerified {
		return a.info(f.Caller.User, f.Caller.UID, f.Caller.Groups, f.Caller.Extra), nil
	}
	reviewer := a.other
	if f.Caller.Certainty == flow.TokenVerified {
		reviewer = a.known
	}
	if len(r.Header.Get("Authorization")) > longestToken {
		return nil, fmt.Errorf("%w: its token has more than %d bytes", ErrUnknown, longestToken)
	}
	a.tally.tokens.Add(1)
	// The API server's own reading of the header, on a copy: it takes the header away when the token is good.
	shown := (&http.Request{Header: http.Header{"Authorization": r.Header["Authorization"]}}).WithContext(ctx)
	response, ok, err := reviewer.AuthenticateRequest(shown)
	switch {
	case ok:
		u := response.User
		return a.info(u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra()), nil
	case err == nil || errors.Is(err, ErrUnknown):
		return nil, ErrUnknown
	default:
		return nil, fmt.Errorf("reviewing a token: %w", err)
	}
}

func (a *Access) info(name, uid string, groups []string, extra map[string][]string) user.Info {
	if a.reviews.PerTokenExtras != v1alpha1.Enabled && len(extra) > 0 {
		extra = maps.Clone(extra)
		for _, key := range perTokenExtras {
			delete(extra, key)
		}
	}
	return &user.DefaultInfo{Name: name, UID: uid, Groups: groups, Extra: extra}
}

// tokens returns an authenticator that reads a request's token as the API server does, reviews it, and remembers the
// answer under the token's hash. Reviews of one token at one time are one.
func (a *Access) tokens(client authenticationclient.AuthenticationV1Interface, p *patience) (authenticator.Request, error) {
	review, err := webhooktoken.NewFromInterface(client, nil, once, 0, webhooktoken.AuthenticatorMetrics{
		RecordRequestTotal:   func(context.Context, string) {},
		RecordRequestLatency: func(context.Context, string, float64) {},
	})
	if err != nil {
		return nil, fmt.Errorf("making the token reviewer: %w", err)
	}
	good := a.reviews.TokenTTL.Duration
	remembered := cache.New(&tokenReviews{access: a, review: review, patience: p}, false, good, min(good, badTokenFor))
	return bearertoken.New(refused{remembered}), nil
}

// refused names what its authenticator says of a token that is not good, which bearertoken would otherwise name itself.
type refused struct{ authenticator.Token }

// AuthenticateToken implements authenticator.Token.
func (t refused) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	response, ok, err := t.Token.AuthenticateToken(ctx, token)
	if !ok && err == nil {
		err = ErrUnknown
	}
	return response, ok, err
}

// tokenReviews tells a token the API server refused, which is worth remembering, from a review that failed.
type tokenReviews struct {
	access   *Access
	review   authenticator.Token
	patience *patience
}

// AuthenticateToken implements authenticator.Token. The API server's words about a bad token are left out: they are for
// whoever holds the token, who gets them when the request is forwarded.
func (t *tokenReviews) AuthenticateToken(ctx context.Context, token string) (response *authenticator.Response, ok bool, err error) {
	err = t.access.ask(ctx, t.patience, kindToken, func(ctx context.Context, answer *answer) (result string, err error) {
		response, ok, err = t.review.AuthenticateToken(ctx, token)
		switch {
		case ok && err == nil:
			return resultYes, nil
		case answer.ok():
			return resultNo, nil
		default:
			return resultFailed, err
		}
	})
	if err != nil || !ok {
		return nil, false, err
	}
	return response, true, nil
}
