package survive

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const here, elsewhere = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"

func saved(t testing.TB, dir, cluster string, k *kept) {
	t.Helper()
	f := newFile(dir, k.kind.Resource+dotted(k.kind.Group))
	if err := (&Store{}).writeFile(f, cluster, k.snapshot()); err != nil {
		t.Fatal(err)
	}
}

func reopened(t *testing.T, dir string, resources ...string) *Store {
	t.Helper()
	s, err := storeAt(t, dir, &sea{}, resources...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeptOnDisk(t *testing.T) {
	dir := t.TempDir()
	k := keptServices(t, 20, service("b", "y", 12, map[string]string{"l": "1"}), service("a", "x", 7, nil))
	_ = k.Bookmark("25")
	saved(t, dir, here, k)
	got, want := reopened(t, dir, "services").kept["services"].snapshot(), k.snapshot()
	if got == nil || got.version != 25 || got.changed != 20 || !got.confirmed.Equal(want.confirmed) || got.kind != services {
		t.Fatalf("read %+v, want %+v", got, want)
	}
	if diff := cmp.Diff(want.objects, got.objects, cmp.AllowUnexported(object{})); diff != "" {
		t.Errorf("(-kept +read):\n%s", diff)
	}
	// A live state is not replaced by an old one.
	k.restore(&snapshot{kind: services, version: 1})
	if k.snapshot().version != 25 {
		t.Error("an old state took a live one's place")
	}
}

func TestSpoiltFiles(t *testing.T) {
	old, newer := service("a", "old", 7, nil), service("a", "newer", 8, nil)
	for name, spoil := range map[string]func(t *testing.T, path string){
		"torn":  func(t *testing.T, path string) { must(t, os.Truncate(path, 150)) },
		"empty": func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) },
		"a bit": func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			data[len(data)-3] ^= 1
			must(t, os.WriteFile(path, data, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			saved(t, dir, here, keptServices(t, 7, old))
			saved(t, dir, here, keptServices(t, 8, newer))
			spoil(t, filepath.Join(dir, "relay-services"))
			got := reopened(t, dir, "services").kept["services"].snapshot()
			if got == nil || len(got.objects) != 1 || got.objects[0].name != "old" {
				t.Errorf("read %+v, want the generation before", got)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Files of two clusters in one folder: one of them is wrong, and what comes first is believed.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	nodes := &kept{kind: kind{Version: "v1", Resource: "nodes", Kind: "Node"}}
	must(t, nodes.Replace(nil, "5"))
	saved(t, dir, here, nodes)
	saved(t, dir, elsewhere, keptServices(t, 7, service("a", "theirs", 7, nil)))
	s := reopened(t, dir, "services", "nodes")
	if s.kept["services"].snapshot() != nil || s.kept["nodes"].snapshot() == nil || s.cluster != here {
		t.Errorf("cluster %q, services %v, nodes %v", s.cluster, s.kept["services"].snapshot(), s.kept["nodes"].snapshot())
	}
	// What has another's name, too.
	dir = t.TempDir()
	saved(t, dir, here, keptServices(t, 7, service("a", "x", 7, nil)))
	must(t, os.Rename(filepath.Join(dir, "relay-services"), filepath.Join(dir, "relay-pods")))
	if s := reopened(t, dir, "pods"); s.kept["pods"].snapshot() != nil {
		t.Error("services were taken for pods")
	}
}

func TestSecretsAreNeverKept(t *testing.T) {
	if _, err := storeAt(t, t.TempDir(), &sea{}, "secrets"); err == nil {
		t.Error("secrets can be configured")
	}
	k := &kept{kind: kind{Version: "v1", Resource: "secrets", Kind: "Secret", Namespaced: true}}
	must(t, k.Replace(nil, "5"))
	var b bytes.Buffer
	must(t, encodeFile(&b, here, k.snapshot()))
	if _, _, err := decodeFile(&b); err == nil {
		t.Error("a file of secrets is read")
	}
}

// With the disk full, what is in memory is served; with room again it is kept.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	s := reopened(t, dir, "services")
	s.cluster = here
	k := s.kept["services"]
	k.kind = services
	must(t, k.Replace([]any{service("a", "x", 7, nil)}, "7"))
	s.save("services", k, 0)

	var before unix.Rlimit
	must(t, unix.Prlimit(0, unix.RLIMIT_FSIZE, nil, &before))
	must(t, unix.Prlimit(0, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: before.Max}, nil))
	must(t, k.Update(service("a", "y", 9, nil)))
	s.save("services", k, 0)
	s.grants.granted(subject{User: "u"}, right{Verb: "list", Version: "v1", Resource: "services"}, time.Now())
	s.saveGrants()
	must(t, unix.Prlimit(0, unix.RLIMIT_FSIZE, &before, nil))
	if !s.files["services"].failing || !s.grantsFailing {
		t.Fatal("a full disk was not noticed")
	}
	if got := k.snapshot(); len(got.objects) != 2 {
		t.Errorf("%d objects in memory, want 2", len(got.objects))
	}
	if got := reopened(t, dir, "services").kept["services"].snapshot(); got == nil || len(got.objects) != 1 {
		t.Errorf("on disk: %+v, want what was kept before", got)
	}
	s.save("services", k, 0)
	s.saveGrants()
	again := reopened(t, dir, "services")
	if got := again.kept["services"].snapshot(); got == nil || len(got.objects) != 2 || again.grants.count() != 1 {
		t.Errorf("with room again, on disk: %+v, %d grants", got, again.grants.count())
	}
}

// A busy resource is written every ten seconds and not with each change.
func TestWritesAreFew(t *testing.T) {
	s := reopened(t, t.TempDir(), "services")
	s.cluster = here
	k := s.kept["services"]
	k.kind = services
	must(t, k.Replace(nil, "1"))
	path := s.files["services"].state.Path()
	s.save("services", k, saveEvery)
	first, err := os.Stat(path)
	must(t, err)
	for v := range 100 {
		must(t, k.Update(service("a", fmt.Sprint("x", v), uint64(2+v), nil)))
		s.save("services", k, saveEvery)
	}
	if last, err := os.Stat(path); err != nil || !os.SameFile(first, last) {
		t.Errorf("written again within ten seconds: %v", err)
	}
	s.save("services", k, 0)
	if last, err := os.Stat(path); err != nil || os.SameFile(first, last) {
		t.Errorf("not written at the end: %v", err)
	}
}

func packedHeader(t testing.TB, header any, rest string) []byte {
	t.Helper()
	line, err := json.Marshal(header)
	must(t, err)
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err = w.Write([]byte(string(line) + "\n" + rest))
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

// FuzzKeptFile: whatever is in a kept file, it is refused or is a state that writes and reads the same.
func FuzzKeptFile(f *testing.F) {
	var whole bytes.Buffer
	must(f, encodeFile(&whole, here, keptServices(f, 20, service("b", "y", 12, map[string]string{"l": "1"}), service("a", "x", 7, nil)).snapshot()))
	plain := func(packed []byte) []byte {
		r, err := gzip.NewReader(bytes.NewReader(packed))
		must(f, err)
		var b bytes.Buffer
		_, err = b.ReadFrom(r)
		must(f, err)
		return b.Bytes()
	}
	f.Add(plain(whole.Bytes()))
	f.Add(plain(packedHeader(f, fileHeader{Cluster: here, kind: services, ResourceVersion: 5, ChangedVersion: 5, Objects: 1 << 20}, "\xff\xff\xff\xff\x7f")))
	f.Add(plain(packedHeader(f, fileHeader{Cluster: here, kind: kind{Group: "x.y", Version: "v1", Resource: "boats", Kind: "Boat"}, ResourceVersion: 5, Objects: 1},
		"\x45"+`{"apiVersion":"x.y/v1","kind":"Boat","metadata":{"name":"a","resourceVersion":"3"}}`)))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.NoCompression)
		must(t, err)
		_, _ = w.Write(text)
		must(t, w.Close())
		cluster, s, err := decodeFile(&packed)
		if err != nil {
			return
		}
		if !slices.IsSortedFunc(s.objects, byKey) || s.kind.Resource == "secrets" && s.kind.Group == "" {
			t.Fatalf("read %+v", s)
		}
		var again bytes.Buffer
		must(t, encodeFile(&again, cluster, s))
		if _, same, err := decodeFile(&again); err != nil || len(same.objects) != len(s.objects) || same.version != s.version {
			t.Fatalf("written and read again: %+v, %v", same, err)
		}
		for _, m := range []media{{}, {partial: true}, {protobuf: s.kind.builtIn()}, {protobuf: s.kind.builtIn(), partial: true}} {
			if _, err := list(&s.kind, m, s.version, s.objects); err != nil {
				t.Fatalf("encoding what was read as %+v: %v", m, err)
			}
		}
	})
}

// FuzzGrantsFile: whatever is in the file, it is refused or what could have been granted.
func FuzzGrantsFile(f *testing.F) {
	var b bytes.Buffer
	must(f, encodeGrants(&b, here, []grant{{subject: subject{User: "u", Groups: []string{"g"}}, right: right{Verb: "list", Version: "v1", Resource: "services"}, Granted: time.Unix(1, 0)}}))
	r, err := gzip.NewReader(&b)
	must(f, err)
	var plain bytes.Buffer
	_, err = plain.ReadFrom(r)
	must(f, err)
	f.Add(plain.Bytes())
	f.Add([]byte(`{"cluster":"x","grants":1}` + "\n" + `{"user":"u","verb":"delete","version":"v1","resource":"services","granted":"2024-12-11T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(text)
		must(t, w.Close())
		_, all, err := decodeGrants(&packed)
		if err != nil {
			return
		}
		for _, x := range all {
			if x.User == "" || x.Resource == "" || !strings.Contains("get list watch", x.Verb) {
				t.Fatalf("read %+v", x)
			}
		}
	})
}
