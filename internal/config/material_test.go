package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/pki"
)

// material writes every file of the good configuration and returns its text with absolute paths.
func material(t *testing.T, folder string) string {
	t.Helper()
	ca, err := pki.NewCA("ca", 24*time.Hour)
	must(t, err)
	write(t, filepath.Join(folder, "ca.crt"), string(ca.CertPEM()))
	for _, name := range []string{"tls", "proxy"} {
		pair, err := ca.Issue(pki.Spec{CommonName: name, Lifetime: time.Hour, Client: true, Server: true})
		must(t, err)
		must(t, pair.Write(filepath.Join(folder, name+".crt"), filepath.Join(folder, name+".key")))
	}
	return absolute(good, folder)
}

func absolute(text, folder string) string {
	for _, name := range []string{"ca.crt", "tls.crt", "tls.key", "proxy.crt", "proxy.key"} {
		text = strings.ReplaceAll(text, ": "+name, ": "+filepath.Join(folder, name))
	}
	return text
}

func TestCheckFiles(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, folder string)
		want  []string // with FOLDER for the folder
	}{
		"good": {spoil: func(*testing.T, string) {}},
		"absent": {
			spoil: func(t *testing.T, folder string) { must(t, os.Remove(filepath.Join(folder, "tls.key"))) },
			want:  []string{`<stdin>:7: listen.keyFile: value "FOLDER/tls.key": the file must exist`},
		},
		"another certificate's key": {
			spoil: func(t *testing.T, folder string) {
				must(t, os.Rename(filepath.Join(folder, "proxy.key"), filepath.Join(folder, "tls.key")))
				must(t, os.Symlink("tls.key", filepath.Join(folder, "proxy.key")))
			},
			want: []string{`<stdin>:7: listen.keyFile: value "FOLDER/tls.key": must be the key of the certificate in FOLDER/tls.crt`},
		},
		"key others can read": {
			spoil: func(t *testing.T, folder string) { must(t, os.Chmod(filepath.Join(folder, "proxy.key"), 0o644)) },
			want: []string{`<stdin>:18: identity.proxyKeyFile: value "FOLDER/proxy.key": must be readable by its owner only (chmod 600), is 0644: ` +
				`whoever reads it can do what its owner can`},
		},
		"no certificate": {
			spoil: func(t *testing.T, folder string) { write(t, filepath.Join(folder, "ca.crt"), "hello") },
			want: []string{
				`<stdin>:11: upstreams[0].caFile: value "FOLDER/ca.crt": must hold at least one PEM certificate`,
				`<stdin>:14: upstreams[1].caFile: value "FOLDER/ca.crt": must hold at least one PEM certificate`,
				`<stdin>:16: identity.clientCAFile: value "FOLDER/ca.crt": must hold at least one PEM certificate`,
			},
		},
		"leaf for an authority": {
			spoil: func(t *testing.T, folder string) {
				must(t, os.Remove(filepath.Join(folder, "ca.crt")))
				must(t, os.Symlink("tls.crt", filepath.Join(folder, "ca.crt")))
			},
			want: []string{
				`<stdin>:11: upstreams[0].caFile: value "FOLDER/ca.crt": must hold authorities only: "CN=tls" is not one`,
				`<stdin>:14: upstreams[1].caFile: value "FOLDER/ca.crt": must hold authorities only: "CN=tls" is not one`,
				`<stdin>:16: identity.clientCAFile: value "FOLDER/ca.crt": must hold authorities only: "CN=tls" is not one`,
			},
		},
		"encrypted or wrong key": {
			spoil: func(t *testing.T, folder string) { write(t, filepath.Join(folder, "tls.key"), "-----BEGIN X-----\n") },
			want:  []string{`<stdin>:7: listen.keyFile: value "FOLDER/tls.key": must hold an unencrypted PEM private key`},
		},
		"folder": {
			spoil: func(t *testing.T, folder string) {
				must(t, os.Remove(filepath.Join(folder, "tls.key")))
				must(t, os.Mkdir(filepath.Join(folder, "tls.key"), 0o700))
			},
			want: []string{`<stdin>:7: listen.keyFile: value "FOLDER/tls.key": must be a file`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			docs, err := Load("-", strings.NewReader(material(t, folder)))
			must(t, err)
			test.spoil(t, folder)
			var got []string
			if err := docs[0].CheckFiles(time.Now()); err != nil {
				got = strings.Split(strings.ReplaceAll(err.Error(), folder, "FOLDER"), "\n")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckFilesExpiry(t *testing.T) {
	docs, err := Load("-", strings.NewReader(material(t, t.TempDir())))
	must(t, err)
	err = docs[0].CheckFiles(time.Now().Add(2 * time.Hour))
	if err == nil || !strings.Contains(err.Error(), `<stdin>:6: listen.certFile: value "`) ||
		!strings.Contains(err.Error(), `must not be expired: "CN=tls" ended `) || strings.Contains(err.Error(), "caFile") {
		t.Errorf("two hours later: %v, want the two certificates and not the authority", err)
	}
	if err := docs[0].CheckFiles(time.Now().Add(-48 * time.Hour)); err == nil || !strings.Contains(err.Error(), "must be valid now") {
		t.Errorf("two days before: %v", err)
	}
}

// A field named …File or …Files that no kind's list mentions would be accepted unread by config check.
func TestEveryFileFieldIsListed(t *testing.T) {
	written := []string{"auditFile"} // by the program, not read
	for _, kind := range v1alpha1.Kinds() {
		object, _ := v1alpha1.New(kind)
		named := map[string]bool{}
		nameFiles(reflect.ValueOf(object).Elem(), "", named)
		if lists, ok := object.(v1alpha1.Files); ok {
			for _, ref := range lists.Files() {
				delete(named, ref.Path)
			}
		}
		for path := range named {
			if !slices.ContainsFunc(written, func(w string) bool { return strings.HasSuffix(path, w) }) {
				t.Errorf("%s: %s is in no list of files", kind, path)
			}
		}
	}
}

// nameFiles fills every file field with its own path in the document.
func nameFiles(v reflect.Value, path string, named map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.Type().Elem().Kind() == reflect.Struct && isPlainStruct(v.Type().Elem()) {
			v.Set(reflect.New(v.Type().Elem()))
			nameFiles(v.Elem(), path, named)
		}
	case reflect.Slice:
		switch v.Type().Elem().Kind() {
		case reflect.Struct:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			nameFiles(v.Index(0), path, named)
		case reflect.String:
			if strings.HasSuffix(path, "Files") {
				named[path] = true
				v.Set(reflect.ValueOf([]string{path}))
			}
		}
	case reflect.Struct:
		for _, f := range fieldList(v.Type()) {
			nameFiles(v.FieldByIndex(f.field.Index), path+"."+f.name, named)
		}
	case reflect.String:
		if strings.HasSuffix(path, "File") {
			named[path] = true
			v.SetString(path)
		}
	}
}
