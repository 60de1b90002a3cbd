package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/seakeep/seakeep/emergency/preflight"
)

// writePreflight says first what was found, then what follows from it.
func writePreflight(w io.Writer, f *preflight.Facts, results []preflight.Result) error {
	fmt.Fprintln(w, "CONTROL PLANE")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range factLines(f) {
		fmt.Fprintf(t, "  %s\t%s\n", line.name, printable(line.value))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, planned := range []bool{false, true} {
		title := "\nPARTS"
		if planned {
			title = "\nNOT IN THIS VERSION: what the control plane would allow"
		}
		for _, r := range results {
			if r.Planned != planned {
				continue
			}
			if title != "" {
				fmt.Fprintln(w, title)
				title = ""
			}
			writePart(w, &r)
		}
	}
	return nil
}

func writePart(w io.Writer, r *preflight.Result) {
	fmt.Fprintf(w, "  %-10s  %s: %s\n", r.Status, r.Part, r.Title)
	for _, why := range r.Why {
		fmt.Fprintf(w, "              %s\n", printable(why))
	}
	for _, change := range r.Change {
		fmt.Fprintf(w, "              → %s\n", printable(change))
	}
}

type factLine struct{ name, value string }

func factLines(f *preflight.Facts) []factLine {
	lines := []factLine{
		{"server", f.Server},
		{"version", show(f.Version, func(v string) string { return v })},
		{"you are", show(f.User, func(v string) string { return v })},
		{"run by", show(f.Provider, func(p preflight.Provider) string {
			name := p.Name
			if p.Managed {
				name += ", managed"
			}
			return name + ": " + p.Evidence
		})},
		{"API servers", show(f.APIServers, func(names []string) string { return fmt.Sprint(len(names)) })},
		{"kubernetes Service", show(f.Endpoints, listed)},
		{"balancer or name before them", show(f.Balanced, func(on bool) string { return map[bool]string{true: "yes", false: "no"}[on] })},
		{"nodes", show(f.Nodes, func(n preflight.Nodes) string {
			return fmt.Sprintf("%d, %d of them control plane; kubelets %s", n.Count, n.ControlPlane, listed(n.Kubelets))
		})},
		{"flags", show(f.Flags, func(flags preflight.Flags) string { return fmt.Sprintf("of %d API servers", flags.APIServers) })},
		{"anonymous requests", show(f.Anonymous, func(on bool) string { return map[bool]string{true: "let in", false: "refused"}[on] })},
		{"front proxies", show(f.Authentication, func(a preflight.Authentication) string {
			return fmt.Sprintf("CA %s; names %s", listed(certificateNames(a.RequestHeaderCAs)), listed(a.AllowedNames))
		})},
		{"client CAs", show(f.Authentication, func(a preflight.Authentication) string { return listed(certificateNames(a.ClientCAs)) })},
		{"token issuer", show(f.Issuer, func(v string) string { return v })},
		{"priority and fairness", show(f.PriorityAndFairness, func(p preflight.PriorityAndFairness) string {
			return map[bool]string{true: "on", false: "off"}[p.On] + ", API " + listed(p.Versions)
		})},
		{"serving certificate", show(f.Serving, func(c preflight.Certificate) string {
			return fmt.Sprintf("%s, until %s", c.Subject, c.NotAfter.UTC().Format("2006-01-02"))
		})},
		{"etcd", show(f.Etcd, func(members []preflight.EtcdMember) string {
			up := 0
			for _, m := range members {
				if m.Unreachable == "" {
					up++
				}
			}
			return fmt.Sprintf("%d of %d endpoints answer", up, len(members))
		})},
	}
	for _, c := range f.Clients {
		if _, ok := c.Server.Get(); ok {
			lines = append(lines, factLine{"for " + c.Who, show(c.Server, func(v string) string { return v })})
		}
	}
	return lines
}

func show[T any](f preflight.Fact[T], text func(T) string) string {
	if value, ok := f.Get(); ok {
		return text(value)
	}
	return "unknown: " + f.Why()
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func certificateNames(certificates []preflight.Certificate) []string {
	names := []string{}
	for _, c := range certificates {
		if !slices.Contains(names, c.Subject) {
			names = append(names, c.Subject)
		}
	}
	return names
}
