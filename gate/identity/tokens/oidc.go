package tokens

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// notBeforeLeeway is what the API server's OIDC library allows an issuer's clock to run ahead; expiry gets none.
const notBeforeLeeway = 5 * time.Minute

// issuer verifies the ID tokens of one OIDC issuer as the API server's --oidc flags do.
type issuer struct {
	config v1alpha1.OIDCIssuer
	keys   []publicKey
}

func (i *issuer) verify(token *jwt.JSONWebToken, now time.Time) (Identity, time.Time, bool) {
	var public jwt.Claims
	var claims map[string]json.RawMessage
	if !check(token, i.keys, &public, &claims) {
		return Identity{}, time.Time{}, false
	}
	switch {
	case public.Issuer != i.config.IssuerURL,
		!slices.Contains(public.Audience, i.config.ClientID),
		public.Expiry == nil || !now.Before(public.Expiry.Time()),
		public.NotBefore != nil && now.Add(notBeforeLeeway).Before(public.NotBefore.Time()):
		return Identity{}, time.Time{}, false
	}
	name, ok := i.username(claims)
	if !ok {
		return Identity{}, time.Time{}, false
	}
	groups, ok := i.groups(claims)
	if !ok {
		return Identity{}, time.Time{}, false
	}
	identity := Identity{
		User:    name,
		Groups:  append(groups, user.AllAuthenticated),
		Expires: public.Expiry.Time(),
	}
	if public.ID != "" {
		identity.Extra = map[string][]string{user.CredentialIDKey: {"JTI=" + public.ID}}
	}
	return identity, identity.Expires, true
}

func (i *issuer) username(claims map[string]json.RawMessage) (string, bool) {
	var name string
	if json.Unmarshal(claims[i.config.UsernameClaim], &name) != nil || name == "" {
		return "", false
	}
	// As the API server: an e-mail address is a name only if the issuer does not say it is unverified.
	if raw, said := claims["email_verified"]; said && i.config.UsernameClaim == "email" {
		var verified bool
		if json.Unmarshal(raw, &verified) != nil || !verified {
			return "", false
		}
	}
	if i.config.UsernamePrefix != nil {
		name = *i.config.UsernamePrefix + name
	}
	return name, true
}

// groups takes a string or a list of strings; a claim that is absent is no group, one of another type is an error.
func (i *issuer) groups(claims map[string]json.RawMessage) ([]string, bool) {
	raw, said := claims[i.config.GroupsClaim]
	if i.config.GroupsClaim == "" || !said {
		return nil, true
	}
	var groups []string
	var single string
	switch {
	case json.Unmarshal(raw, &single) == nil:
		groups = []string{single}
	case json.Unmarshal(raw, &groups) != nil:
		return nil, false
	}
	for n := range groups {
		groups[n] = i.config.GroupsPrefix + groups[n]
	}
	return groups, true
}
