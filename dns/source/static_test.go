package source_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/source"
	"github.com/seakeep/seakeep/dns/store"
)

const printed = `apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: kube-system, uid: 5f2a9a7e-4a43-4a1d-8d0f-0f6b0c2f9d11}
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop, resourceVersion: "7", labels: {a: b}}
  spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{name: http, port: 80, protocol: TCP, targetPort: 8080}], type: ClusterIP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]
`

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "objects")
	check(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func fetch(t *testing.T, f keeper.Fetcher) (names []string, origin keeper.Origin, err error) {
	t.Helper()
	origin, err = f.Fetch(t.Context(), func(o store.Object) error {
		names = append(names, o.Kind().String()+" "+o.Key().String())
		return nil
	})
	slices.Sort(names)
	return names, origin, err
}

func TestStaticObjects(t *testing.T) {
	path := write(t, printed)
	when := time.Now().Add(-time.Hour).Truncate(time.Second)
	check(t, os.Chtimes(path, when, when))
	names, origin, err := fetch(t, source.NewStatic(path, nil))
	check(t, err)
	want := []string{"endpointslices shop/web-x", "namespaces kube-system", "namespaces shop", "services shop/web"}
	if !slices.Equal(names, want) {
		t.Errorf("it has %v, want %v", names, want)
	}
	if origin.Cluster != "5f2a9a7e-4a43-4a1d-8d0f-0f6b0c2f9d11" || !origin.Confirmed.Equal(when) || origin.Versions[store.Services] != "" {
		t.Errorf("it says of itself %+v", origin)
	}
}

func TestStaticRefused(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"empty":             {"", "no object"},
		"a typing error":    {strings.Replace(printed, "clusterIPs", "clusterIps", 1), "unknown field"},
		"a key twice":       {strings.Replace(printed, "addressType: IPv4", "addressType: IPv4\naddressType: IPv6", 1), "already set"},
		"an object twice":   {printed + "---\n" + printed, "twice"},
		"another kind":      {"apiVersion: v1\nkind: Node\nmetadata: {name: a}\n", "nothing that DNS shows"},
		"an unknown kind":   {"apiVersion: v1\nkind: Fish\nmetadata: {name: a}\n", "no kind"},
		"no namespace":      {"apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", "lacks its name or namespace"},
		"no YAML":           {"\x00\x01", ""},
		"a torn snapshot":   {`{"schema":1,"kinds":{}}` + "\n", "torn"},
		"a later snapshot":  {`{"schema":9,"kinds":{}}` + "\n", "newer"},
		"a torn state file": {"seakeep-state/1 schema=1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := fetch(t, source.NewStatic(write(t, test.content), nil))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
	if _, _, err := fetch(t, source.NewStatic(t.TempDir(), nil)); err == nil {
		t.Error("a folder was read")
	}
	if _, _, err := fetch(t, source.NewStatic(filepath.Join(t.TempDir(), "none"), nil)); err == nil {
		t.Error("a file that is not there was read")
	}
}

func snapshotOf(t *testing.T, cluster string) (snapshot.Meta, []store.Object, []byte) {
	t.Helper()
	objects := []store.Object{&store.Namespace{Name: "shop", Version: 3}, &store.Service{Namespace: "shop", Name: "web", Version: 5}}
	meta := snapshot.Meta{
		Cluster: cluster, Generation: 4, Confirmed: time.Now().Add(-time.Minute).UTC().Truncate(time.Second),
		Kinds: map[string]snapshot.KindMeta{"namespaces": {Version: "4"}, "services": {Version: "6"}},
	}
	var b bytes.Buffer
	check(t, snapshot.Encode(&b, meta, slices.Values(objects), nil))
	return meta, objects, b.Bytes()
}

// A snapshot is read as a relay hands it out, and as it lies in a state folder.
func TestStaticSnapshots(t *testing.T) {
	meta, objects, raw := snapshotOf(t, "a-cluster")
	dir := filepath.Join(t.TempDir(), "state")
	file, err := snapshot.Open(snapshot.Options{Dir: dir})
	check(t, err)
	check(t, file.Save(meta, slices.Values(objects)))
	check(t, file.Close())
	for name, path := range map[string]string{"handed out": write(t, string(raw)), "in a folder": file.Path()} {
		t.Run(name, func(t *testing.T) {
			names, origin, err := fetch(t, source.NewStatic(path, nil))
			check(t, err)
			if len(names) != 2 || origin.Cluster != "a-cluster" || origin.Versions[store.Services] != "6" || !origin.Confirmed.Equal(meta.Confirmed) {
				t.Errorf("it has %v and says %+v", names, origin)
			}
			if _, _, err := fetch(t, source.NewStatic(path, []byte("a key"))); err == nil {
				t.Error("a snapshot without a signature was read")
			}
		})
	}
}

func FuzzStatic(f *testing.F) {
	f.Add([]byte(printed))
	f.Add([]byte(`{"schema":1,"cluster":"a","kinds":{}}` + "\n\xff"))
	f.Add([]byte("a: &a [*a]\n---\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "f")
		check(t, os.WriteFile(path, content, 0o600))
		var objects []store.Object
		_, err := source.NewStatic(path, nil).Fetch(t.Context(), func(o store.Object) error {
			objects = append(objects, o)
			return nil
		})
		if err != nil || bytes.HasPrefix(content, []byte(`{"schema":`)) {
			return // what a snapshot may hold is its own package's affair
		}
		for _, o := range objects {
			if o.Key().Name == "" || (o.Key().Namespace == "") != (o.Kind() == store.Namespaces) {
				t.Errorf("a %s named %q was accepted", o.Kind(), o.Key())
			}
		}
	})
}
