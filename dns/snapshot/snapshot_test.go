package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/seakeep/seakeep/dns/store"
)

const cluster = "0e4d9b52-6a5d-4a5c-8f6e-3b2f6f6e0001"

var confirmed = time.Date(2024, 12, 11, 23, 12, 0, 0, time.UTC)

// objects are one of everything, with every field set somewhere.
func objects() []store.Object {
	ports := []store.Port{{Name: "http", Protocol: "TCP", Number: 80}, {Protocol: "UDP", Number: -1}}
	return []store.Object{
		&store.Namespace{Name: "shop", Version: 7},
		&store.Service{
			Namespace: "shop", Name: "cart", Version: 1 << 60, Type: store.LoadBalancer,
			ClusterIPs:  []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fd00::10")},
			ExternalIPs: []string{"192.0.2.1", "lb.example.com"}, Ports: ports,
		},
		&store.Service{Namespace: "shop", Name: "db", Headless: true},
		&store.Service{Namespace: "shop", Name: "old", Type: store.ExternalName, ExternalName: "old.example.com"},
		store.NewEndpointSlice(store.SliceMeta{
			Namespace: "shop", Name: "db-x7k2p", Service: "db", Import: "db", Cluster: "east", Version: 9, AddressType: store.IPv6, Ports: ports,
		}, []store.Endpoint{
			{Addr: netip.MustParseAddr("fd00::1"), Ready: true, Serving: true, Hostname: "db-0", NodeName: "node-1", Zone: "a", TargetName: "db-0", TargetUID: store.ParseUID(cluster)},
			{Addr: netip.MustParseAddr("10.1.0.1"), Terminating: true, Held: true, Gone: true, TargetUID: store.ParseUID("no uuid")},
			{Host: "pod.example.com", Ready: true},
		}),
		&store.ServiceImport{Namespace: "shop", Name: "db", Version: 1, Type: store.HeadlessImport, IPs: []netip.Addr{netip.MustParseAddr("10.9.0.1")}, Ports: ports},
		&store.Pod{Namespace: "shop", Name: "cart-1", IPs: []netip.Addr{netip.MustParseAddr("10.1.0.9")}, Labels: []store.Label{{Key: "app", Value: "cart"}}},
	}
}

func meta(generation uint64) Meta {
	m := Meta{Cluster: cluster, Generation: generation, Writer: "v1", Kinds: map[string]KindMeta{}, Modified: [store.ZoneCount]int64{1, 2, 3}, Confirmed: confirmed, Source: "https://api"}
	for k := range store.Kind(store.KindCount) {
		m.Kinds[k.String()] = KindMeta{Version: fmt.Sprint(100 + int(k))}
	}
	return m
}

func encode(t testing.TB, m Meta, key string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(&b, m, slices.Values(objects()), []byte(key)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decodeAll(data []byte, o DecodeOptions) (Meta, []store.Object, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 20
	}
	var got []store.Object
	m, err := Decode(bytes.NewReader(data), o, func(o store.Object) error {
		got = append(got, o)
		return nil
	})
	return m, got, err
}

var compare = cmp.Options{cmp.AllowUnexported(store.EndpointSlice{}), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

func TestEncodeAndDecode(t *testing.T) {
	for _, key := range []string{"", "secret"} {
		got, objs, err := decodeAll(encode(t, meta(3), key), DecodeOptions{Cluster: cluster, Key: []byte(key)})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(objects(), objs, compare); diff != "" {
			t.Errorf("key %q: objects (-want +got):\n%s", key, diff)
		}
		want := meta(3)
		want.Schema, want.Signed = SchemaVersion, key != ""
		for name, n := range map[string]int{"namespaces": 1, "services": 3, "endpointslices": 1, "serviceimports": 1, "pods": 1} {
			k := want.Kinds[name]
			k.Count = n
			want.Kinds[name] = k
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("key %q: meta (-want +got):\n%s", key, diff)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := encode(t, meta(1), "")
	signed := encode(t, meta(1), "secret")
	theirs := meta(1)
	theirs.Authorities = []string{"theirs"}
	foreign := encode(t, theirs, "")
	future := bytes.Replace(good, []byte(`"schema":1`), []byte(`"schema":2`), 1)
	first := good[:bytes.IndexByte(good, '\n')+1]
	tests := map[string]struct {
		data    []byte
		options DecodeOptions
		want    error
		text    string
	}{
		"another cluster":    {good, DecodeOptions{Cluster: "other"}, ErrForeign, cluster},
		"another authority":  {foreign, DecodeOptions{Authorities: []string{"ours", "ours, renewed"}}, ErrForeign, "another certificate authority"},
		"a newer schema":     {future, DecodeOptions{}, ErrFuture, "2, not 1"},
		"no signature":       {good, DecodeOptions{Key: []byte("secret")}, ErrUnsigned, ""},
		"another key":        {signed, DecodeOptions{Key: []byte("other")}, ErrUnsigned, ""},
		"too many bytes":     {good, DecodeOptions{MaxBytes: int64(len(good)) - 1}, ErrTooLarge, "more than"},
		"a large record":     {slices.Concat(first, []byte("\x01\xff\xff\xff\xff\x7f")), DecodeOptions{}, ErrTooLarge, "services"},
		"endless first line": {bytes.Repeat([]byte("x"), maxMeta+1), DecodeOptions{}, ErrTooLarge, "first line"},
		"an object missing":  {bytes.Replace(good, []byte(`"count":3`), []byte(`"count":4`), 1), DecodeOptions{}, nil, "3 services, where the first line says 4"},
		"an unknown kind":    {slices.Concat(first, []byte{9}), DecodeOptions{}, nil, "kind 9"},
		"something after it": {slices.Concat(good, []byte{'x'}), DecodeOptions{}, nil, "after its end"},
		"no description":     {[]byte("hello\n\xff"), DecodeOptions{}, nil, "no description"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := decodeAll(tc.data, tc.options)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %v, want %v with %q", err, tc.want, tc.text)
			}
		})
	}
}

// Authorities are exchanged with both in force for a time, and not everybody knows them.
func TestAuthoritiesInCommon(t *testing.T) {
	for name, tc := range map[string]struct{ theirs, ours []string }{
		"one of two":            {[]string{"old"}, []string{"new", "old"}},
		"the snapshot has none": {nil, []string{"new"}},
		"the program has none":  {[]string{"old"}, nil},
	} {
		m := meta(1)
		m.Authorities = tc.theirs
		if _, _, err := decodeAll(encode(t, m, ""), DecodeOptions{Authorities: tc.ours}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeRefusesEveryTornAndFlippedByteOfASignedSnapshot(t *testing.T) {
	good := encode(t, meta(1), "secret")
	o := DecodeOptions{Key: []byte("secret")}
	for i := range good {
		if _, _, err := decodeAll(good[:i], o); err == nil {
			t.Fatalf("%d of %d bytes are accepted", i, len(good))
		}
		flipped := bytes.Clone(good)
		flipped[i] ^= 1
		if _, _, err := decodeAll(flipped, o); err == nil {
			t.Fatalf("a flipped bit in byte %d is not seen", i)
		}
	}
}

func open(t *testing.T, dir string) *File {
	t.Helper()
	f, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func load(f *File, uid string) (Loaded, []store.Object, error) {
	var got []store.Object
	l, err := f.Load(uid, func() func(store.Object) error {
		got = nil
		return func(o store.Object) error {
			got = append(got, o)
			return nil
		}
	})
	return l, got, err
}

func save(t *testing.T, f *File, m Meta) {
	t.Helper()
	if err := f.Save(m, slices.Values(objects())); err != nil {
		t.Fatal(err)
	}
}

func TestFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	f := open(t, dir)
	if _, _, err := load(f, ""); !errors.Is(err, ErrNone) {
		t.Errorf("loading nothing: %v, want ErrNone", err)
	}
	save(t, f, meta(1))
	save(t, f, meta(2))
	l, got, err := load(open(t, dir), cluster)
	if err != nil || l.Generation != 2 || !l.Confirmed.Equal(confirmed) {
		t.Fatalf("loaded %+v, %v", l, err)
	}
	if diff := cmp.Diff(objects(), got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", e.Name(), info.Mode())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, want 0700", info.Mode())
	}
}

// A snapshot cut off at any byte is refused and the one before it is used: a power cut takes a minute, not the data.
func TestFileTornAtEveryByte(t *testing.T) {
	f := open(t, t.TempDir())
	save(t, f, meta(1))
	save(t, f, meta(2))
	whole, err := os.ReadFile(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		if err := os.WriteFile(f.Path(), whole[:i], 0o600); err != nil {
			t.Fatal(err)
		}
		l, got, err := load(f, cluster)
		if err != nil || l.Generation != 1 || len(got) != len(objects()) || len(l.Refused) != 1 {
			t.Fatalf("torn at %d: generation %d, %d objects, refused %v, error %v", i, l.Generation, len(got), l.Refused, err)
		}
	}
}

func TestFileRefuses(t *testing.T) {
	t.Run("two clusters' folders swapped", func(t *testing.T) {
		f := open(t, t.TempDir())
		save(t, f, meta(1))
		if _, _, err := load(f, "another"); !errors.Is(err, ErrForeign) {
			t.Errorf("error %v, want ErrForeign", err)
		}
	})
	t.Run("the newest foreign, the older one ours", func(t *testing.T) {
		f := open(t, t.TempDir())
		save(t, f, meta(1))
		theirs := meta(2)
		theirs.Cluster = "another"
		save(t, f, theirs)
		l, _, err := load(f, cluster)
		if err != nil || l.Generation != 1 || len(l.Refused) != 1 || !errors.Is(l.Refused[0], ErrForeign) {
			t.Errorf("loaded %+v, %v", l, err)
		}
	})
	t.Run("a folder anybody may write to", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "0777") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a second writer", func(t *testing.T) {
		dir := t.TempDir()
		f := open(t, dir)
		save(t, f, meta(1))
		second := open(t, dir)
		if err := second.Save(meta(2), slices.Values(objects())); !errors.Is(err, ErrLocked) {
			t.Errorf("error %v, want ErrLocked", err)
		}
		if _, _, err := load(second, ""); err != nil {
			t.Errorf("it may not read either: %v", err)
		}
		f.Close()
		save(t, second, meta(2))
	})
}

func TestConfirm(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	save(t, f, meta(4))
	later := meta(4)
	later.Confirmed = confirmed.Add(time.Hour)
	later.Modified = [store.ZoneCount]int64{0, 9, 0}
	later.Kinds["services"] = KindMeta{Version: "900"}
	if err := f.Confirm(later); err != nil {
		t.Fatal(err)
	}
	l, _, err := load(f, cluster)
	if err != nil || !l.Confirmed.Equal(later.Confirmed) || l.Kinds["services"].Version != "900" || l.Kinds["services"].Count != 3 ||
		l.Modified != [store.ZoneCount]int64{1, 9, 3} {
		t.Errorf("loaded %+v, %v", l, err)
	}
	save(t, f, meta(5))
	if l, _, _ := load(f, cluster); !l.Confirmed.Equal(confirmed) || l.Kinds["services"].Version != "101" {
		t.Errorf("a confirmation of the generation before was taken for this one's: %+v", l)
	}
	if err := os.WriteFile(filepath.Join(dir, confirmedName), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := load(f, cluster); err != nil {
		t.Errorf("a bad sidecar keeps the snapshot from being loaded: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, meta(1), ""))
	f.Add(encode(f, meta(1), "secret"))
	f.Add([]byte(`{"schema":1,"kinds":{"services":{"count":1}}}` + "\n\x01\x05\x00\x00\x00\x00\x00\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, objs, err := decodeAll(data, DecodeOptions{})
		if err != nil {
			return
		}
		// What is accepted can be read, written again, and is then the same.
		for _, o := range objs {
			if s, ok := o.(*store.EndpointSlice); ok {
				for range s.Endpoints() {
				}
			}
		}
		var b bytes.Buffer
		if err := Encode(&b, m, slices.Values(objs), nil); errors.Is(err, ErrTooLarge) {
			return // JSON escapes make a description longer
		} else if err != nil {
			t.Fatal(err)
		}
		_, again, err := decodeAll(b.Bytes(), DecodeOptions{MaxBytes: 1 << 24})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(objs, again, compare); diff != "" {
			t.Errorf("decoded, encoded, decoded (-first +second):\n%s", diff)
		}
	})
}
