package preflight

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// tested are the minors that Seakeep's own tests run against.
var tested = []int{34, 35, 36}

func judgeVersion(f *Facts, v *verdict) {
	version, ok := f.Version.Get()
	if !ok {
		v.unknown("the version: "+f.Version.Why(), "")
		return
	}
	minor, ok := minorOf(version)
	first, last := tested[0], tested[len(tested)-1]
	switch {
	case !ok:
		v.unknown(fmt.Sprintf("%q is no version of Kubernetes", version), "")
		return
	case slices.Contains(tested, minor):
		v.note(fmt.Sprintf("%s: Seakeep is tested against 1.%d to 1.%d", version, first, last))
	case minor < first:
		v.limited(fmt.Sprintf("%s is older than what Seakeep is tested against (1.%d to 1.%d)", version, first, last), "try it on a copy of this control plane first")
	default:
		v.limited(fmt.Sprintf("%s is newer than what this Seakeep is tested against (1.%d to 1.%d)", version, first, last), "look for a newer Seakeep")
	}
	if nodes, ok := f.Nodes.Get(); ok {
		for _, kubelet := range nodes.Kubelets {
			// Kubernetes' own policy since 1.28: a kubelet is at most three minors older, and never newer.
			if k, ok := minorOf(kubelet); ok && (k > minor || k < minor-3) {
				v.limited(fmt.Sprintf("kubelets run %s, which Kubernetes does not support with %s", kubelet, version), "bring the nodes into the version skew policy")
			}
		}
	}
	if flags, ok := f.Flags.Get(); ok {
		if differing := flags.differing(); len(differing) > 0 {
			v.note("the API servers differ in --" + strings.Join(differing, ", --"))
		}
	}
}

func minorOf(version string) (int, bool) {
	rest, ok := strings.CutPrefix(version, "v1.")
	if !ok {
		return 0, false
	}
	digits, _, _ := strings.Cut(rest, ".")
	minor, err := strconv.Atoi(strings.TrimRight(digits, "+"))
	return minor, err == nil && minor >= 0
}

// gateName is what a gate's front-proxy certificate is called in the documentation.
const gateName = "seakeep-gate"

func judgeFrontProxy(f *Facts, v *verdict) {
	name, managed, known := f.managed()
	if managed {
		v.impossible(name+" runs the API servers and keeps the key of their --requestheader-client-ca-file to itself", "use identity.mode: Impersonation")
		return
	}
	a, ok := f.Authentication.Get()
	if !ok {
		v.unknown("what front proxies the API servers believe: "+f.Authentication.Why(), "run this as a user who may get that ConfigMap (Role extension-apiserver-authentication-reader)")
		return
	}
	if !known && !slices.Contains(a.AllowedNames, gateName) {
		v.unknown("whether you can set the API servers' flags and hold the key of the front-proxy CA: "+f.Provider.Why(), asSelfManaged)
	}
	if len(a.RequestHeaderCAs) == 0 || len(a.UsernameHeaders) == 0 {
		v.impossible("the API servers believe no front proxy: --requestheader-client-ca-file or --requestheader-username-headers is not set",
			"set the --requestheader-* flags as kubeadm does: "+usualHeaders)
		return
	}
	switch own := slices.Contains(a.AllowedNames, gateName); {
	case len(a.AllowedNames) == 0:
		v.limited("--requestheader-allowed-names is empty: every certificate of the front-proxy CA may claim to be anybody",
			"--requestheader-allowed-names=front-proxy-client,"+gateName+" on the API servers")
	case !own:
		v.limited(fmt.Sprintf("--requestheader-allowed-names is %s and has no name of the gate's own (%s): the gate would have to share the aggregator's certificate",
			strings.Join(a.AllowedNames, ","), gateName),
			"--requestheader-allowed-names="+strings.Join(append(slices.Clone(a.AllowedNames), gateName), ",")+" on the API servers")
	}
	headersOf(a, v)
	if chance, ok := f.flag("goaway-chance"); ok && strings.Trim(chance, "0.") != "" {
		v.note("--goaway-chance=" + chance + " makes the API servers send the gate's connections away; behind a gate it is best 0")
	}
	if expiry := soonest(a.RequestHeaderCAs); expiry.NotAfter.Sub(f.Taken) < margin {
		v.limited("the front-proxy CA "+expiry.Subject+" expires "+day(expiry.NotAfter), "renew it")
	}
}

// asSelfManaged is for API servers that are started by systemd, say, which nothing in the cluster shows.
const asSelfManaged = "say --self-managed if you start the API servers yourself"

const usualHeaders = "--requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra-"

// headersOf: a header that the API server reads and the gate does not strip makes any client anyone.
func headersOf(a Authentication, v *verdict) {
	var names []string
	for _, list := range []struct {
		field, usual string
		names        []string
	}{
		{"usernames", "X-Remote-User", a.UsernameHeaders}, {"uids", "X-Remote-Uid", a.UIDHeaders},
		{"groups", "X-Remote-Group", a.GroupHeaders}, {"extraPrefixes", "X-Remote-Extra-", a.ExtraPrefixes},
	} {
		if len(list.names) > 1 || len(list.names) == 1 && !strings.EqualFold(list.names[0], list.usual) {
			names = append(names, list.field+": ["+strings.Join(list.names, ", ")+"]")
		}
	}
	if len(names) > 0 {
		v.limited("the API servers read other identity headers than the usual ones", "write into the gate's configuration: identity.requestHeaders: {"+strings.Join(names, ", ")+"}")
	}
	if len(a.GroupHeaders) == 0 {
		v.limited("--requestheader-group-headers is not set: groups of certificates are lost", "--requestheader-group-headers=X-Remote-Group on the API servers")
	}
	if len(a.UIDHeaders) == 0 {
		v.note("--requestheader-uid-headers is not set: the UID a certificate may carry is not passed on (few carry one)")
	}
}

func judgeImpersonation(f *Facts, v *verdict) {
	const change = "have a cluster admin give the gate's user: impersonate on users, groups, uids and userextras"
	switch allowed, known := f.MayGrantImpersonation.Get(); {
	case !known:
		v.unknown("whether the gate may be given the right to impersonate: "+f.MayGrantImpersonation.Why(), change)
	case !allowed:
		v.impossible("this user may not give the gate the right to impersonate", change)
	}
	name, managed, _ := f.managed()
	instead := "use identity.mode: FrontProxy where the API servers' flags can be set"
	if managed {
		instead = ""
	}
	v.limited("callers with a certificate cannot use --as or --as-group through such a gate, and each user, group and extra costs the API server an authorization", instead)
	if about, ok := f.About.Get(); ok && about.Features["ConstrainedImpersonation"] {
		v.note("ConstrainedImpersonation is on (KEP-5284): the right may be given for some verbs and resources only")
	}
	if managed {
		v.note("on " + name + " most callers come with tokens, which are forwarded untouched and need no impersonation")
	}
	if a, ok := f.Authentication.Get(); ok && len(a.ClientCAs) == 0 {
		v.note("the API servers publish no client CA: a gate recognises no certificates here, only tokens")
	}
}

func judgeBreakGlass(f *Facts, v *verdict) {
	name, managed, known := f.managed()
	if managed {
		v.impossible(name+" lets nobody add a CA to the API servers' --client-ca-file, nor hold a front-proxy key: neither the lane nor its credentials would be believed",
			"keep an administrator's credential of the provider for the emergency, and try it with 'kubectl auth whoami' daily")
		return
	}
	a, ok := f.Authentication.Get()
	if !ok {
		v.unknown("what CAs the API servers trust: "+f.Authentication.Why(), "")
		return
	}
	trusted, named := f.BreakGlassTrusted.Get()
	if !known && !trusted {
		v.unknown("whether you can add a CA to --client-ca-file: "+f.Provider.Why(), asSelfManaged)
	}
	if len(a.RequestHeaderCAs) == 0 {
		v.impossible("the lane passes identities on as a front proxy, and the API servers believe none", "set the --requestheader-* flags; see gate-front-proxy")
	}
	const change = "append the break-glass CA to the file of --client-ca-file; API servers read it again by themselves"
	switch {
	case named && trusted:
		v.note("the API servers trust the break-glass CA: its credentials also work without the lane")
	case named:
		v.limited("the API servers do not trust this break-glass CA: its credentials work through the lane only", change)
	case len(a.ClientCAs) < 2:
		v.limited("--client-ca-file has no CA besides the cluster's: credentials would work through the lane only", change)
	default:
		v.note(fmt.Sprintf("--client-ca-file trusts %s; --break-glass-ca FILE says whether yours is among them", subjects(a.ClientCAs)))
	}
}

func judgeTokens(f *Facts, v *verdict) {
	issuer, ok := f.Issuer.Get()
	keys, okKeys := f.Keys.Get()
	switch {
	case !ok || !okKeys:
		because := "the issuer: " + f.Issuer.Why()
		if ok {
			because = "its keys: " + f.Keys.Why()
		}
		v.unknown(because, "give this user the ClusterRole system:service-account-issuer-discovery")
	case keys == 0:
		v.limited("the API servers publish no key of the issuer "+issuer, "give the gate the file of --service-account-key-file")
	default:
		v.note(fmt.Sprintf("issuer %s, %d keys published", issuer, keys))
	}
	if values, ok := f.Flags.Get(); ok {
		if n := len(values.Values["service-account-issuer"]); n > 1 {
			v.note("list every --service-account-issuer in identity.serviceAccounts.issuers")
		}
		if webhook, ok := f.flag("authentication-token-webhook-config-file"); ok && webhook != "" {
			v.limited("a webhook decides about some tokens (--authentication-token-webhook-config-file): their callers cannot be told apart offline and share a limit per source address", "")
		}
		if file, ok := f.flag("authentication-config"); ok {
			v.note("JWT issuers are set in " + file + " (--authentication-config): list them in identity.oidc")
		}
		if url, ok := f.flag("oidc-issuer-url"); ok {
			v.note("ID tokens of " + url + " are accepted (--oidc-issuer-url): list it in identity.oidc")
		}
	} else if name, _, _ := f.managed(); name == "Amazon EKS" {
		v.limited("IAM tokens are decided about by a webhook: their callers share a limit per source address", "")
	}
}
