package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/seakeep/seakeep/gate/flow"
)

// longestSelectors bounds the selectors that are reviewed, in bytes; requests with longer ones are forwarded. Programs'
// selectors have a few hundred.
const longestSelectors = 8 << 10

var (
	errNoResource    = errors.New("only requests for resources are reviewed")
	errLongSelectors = fmt.Errorf("selectors of more than %d bytes are not reviewed", longestSelectors)
)

// notRemembered is a path that keeps the delegating authorizer from remembering an answer besides us: it does not
// remember attributes this long, and a review of a resource does not carry the path. It would keep up to 8,192 answers
// for nothing, each under all of its question.
var notRemembered = strings.Repeat("-", 10_000)

// Allowed says whether the API server lets who do what the request asks: verb, group, version, resource, namespace, name
// and selectors (KEP-4601: a node may list its own pods, and no others). The answer is at most AuthorizationTTL old.
// Equal questions at one time are one. An error says that it could not be found out: it is no refusal.
func (a *Access) Allowed(ctx context.Context, who user.Info, f *flow.Request) (bool, error) {
	switch {
	case f.Resource == "":
		return false, errNoResource
	case len(f.FieldSelector)+len(f.LabelSelector) > longestSelectors:
		return false, errLongSelectors
	}
	a.tally.rights.Add(1)
	key := verdictKey(who, f)
	if known, ok := a.verdicts.Get(key); ok {
		return known.(bool), nil
	}
	attributes, err := attributesOf(who, f)
	if err != nil {
		return false, err
	}
	// The question outlives the one who asked first: others wait for the same answer.
	answers := a.asking.DoChan(string(key[:]), func() (any, error) {
		return a.review(key, attributes, f)
	})
	select {
	case got := <-answers:
		if got.Err != nil {
			return false, fmt.Errorf("reviewing access: %w", got.Err)
		}
		return got.Val.(bool), nil
	case <-ctx.Done():
		return false, fmt.Errorf("reviewing access: %w", context.Cause(ctx))
	}
}

func (a *Access) review(key verdict, attributes *authorizer.AttributesRecord, f *flow.Request) (allowed bool, err error) {
	if known, ok := a.verdicts.Get(key); ok {
		return known.(bool), nil // another's answer came between our look and our question
	}
	began := time.Now()
	err = a.ask(context.Background(), a.access, kindAccess, func(ctx context.Context, answer *answer) (string, error) {
		decision, _, err := a.authorizer.Authorize(ctx, attributes)
		switch {
		case err != nil:
			return resultFailed, err
		case !answer.ok(): // cannot be: the authorizer answers from the API server's answer only
			return resultFailed, errors.New("BUG: a verdict without an answer")
		case decision == authorizer.DecisionAllow:
			allowed = true
			return resultYes, nil
		default:
			return resultNo, nil
		}
	})
	if err != nil {
		return false, err
	}
	// From when the question was sent: the API server may have looked long before its answer came.
	if left := a.reviews.AuthorizationTTL.Duration - time.Since(began); left > 0 {
		a.verdicts.Add(key, allowed, left)
	}
	if a.recorder != nil {
		a.recorder.Reviewed(attributes.User, f, allowed)
	}
	return allowed, nil
}

// attributesOf is what the API server's own filter makes of the same request (endpoints/filters/authorization.go), except
// that a selector that cannot be parsed is an error: the API server will say so itself.
func attributesOf(who user.Info, f *flow.Request) (*authorizer.AttributesRecord, error) {
	attributes := &authorizer.AttributesRecord{
		User:            who,
		Verb:            f.Verb,
		Namespace:       f.Namespace,
		APIGroup:        f.APIGroup,
		APIVersion:      f.APIVersion,
		Resource:        f.Resource,
		Subresource:     f.Subresource,
		Name:            f.Name,
		Path:            notRemembered,
		ResourceRequest: true,
	}
	if f.FieldSelector != "" {
		selector, err := fields.ParseSelector(f.FieldSelector)
		if err != nil {
			return nil, fmt.Errorf("parsing the field selector: %w", err)
		}
		if requirements := selector.Requirements(); len(requirements) > 0 {
			attributes.FieldSelectorRequirements = requirements
		}
	}
	if f.LabelSelector != "" {
		selector, err := labels.Parse(f.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("parsing the label selector: %w", err)
		}
		if requirements, _ := selector.Requirements(); len(requirements) > 0 {
			attributes.LabelSelectorRequirements = requirements
		}
	}
	return attributes, nil
}

// verdict is a question, by its hash: a question may be long.
type verdict [sha256.Size]byte

// verdictKey tells any two questions apart: every part carries its length. Groups and extras keep their order, which is
// the same for everyone whom one authenticator knows.
func verdictKey(who user.Info, f *flow.Request) verdict {
	b := make([]byte, 0, 512)
	add := func(parts ...string) {
		for _, part := range parts {
			b = strconv.AppendInt(b, int64(len(part)), 10)
			b = append(append(b, ':'), part...)
		}
		b = append(b, '|')
	}
	add(who.GetName(), who.GetUID())
	add(who.GetGroups()...)
	extra := who.GetExtra()
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		add(key)
		add(extra[key]...)
	}
	add()
	add(f.Verb, f.APIGroup, f.APIVersion, f.Resource, f.Subresource, f.Namespace, f.Name, f.FieldSelector, f.LabelSelector)
	return sha256.Sum256(b)
}
