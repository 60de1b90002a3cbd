package v1alpha1

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// FileUse is what a file named in a document must hold.
type FileUse string

// The uses of a file.
const (
	// FileCertificate is a PEM certificate chain, leaf first, valid now.
	FileCertificate FileUse = "Certificate"
	// FileKey is the PEM private key of the certificate named beside it.
	FileKey FileUse = "Key"
	// FileCA is one or more PEM certificates, none expired.
	FileCA FileUse = "CA"
	// FilePublicKeys is one or more PEM public keys or certificates.
	FilePublicKeys FileUse = "PublicKeys"
	// FileKeySet is a JSON Web Key Set.
	FileKeySet FileUse = "KeySet"
	// FilePeerKeys is symmetric keys in base64, one a line.
	FilePeerKeys FileUse = "PeerKeys"
	// FileOther only has to be readable.
	FileOther FileUse = "Other"
)

// FileRef is a file a document names, and what it must be for the document to work. Validate reads no file; whoever
// checks or loads the document does, with this list.
type FileRef struct {
	// Field is where the document names it, Path the name.
	Field *field.Path
	Path  string
	Use   FileUse
	// CertFile is, for a key, the certificate it must fit.
	CertFile string
	// OwnerOnly is true for a key nobody but its owner may read or replace.
	OwnerOnly bool
	// MayBeAbsent is true for a file the program makes itself.
	MayBeAbsent bool
}

// Files is implemented by kinds that name files.
type Files interface {
	// Files returns every file the document names, in the order of its fields.
	Files() []FileRef
}

func keyPair(path *field.Path, cert, certFile, key, keyFile string, ownerOnly bool) []FileRef {
	return []FileRef{
		{Field: path.Child(cert), Path: certFile, Use: FileCertificate},
		{Field: path.Child(key), Path: keyFile, Use: FileKey, CertFile: certFile, OwnerOnly: ownerOnly},
	}
}

// Files implements Files.
func (c *GateConfiguration) Files() []FileRef {
	listen, identity := field.NewPath("listen"), field.NewPath("identity")
	files := keyPair(listen, "certFile", c.Listen.CertFile, "keyFile", c.Listen.KeyFile, false)
	for i, u := range c.Upstreams {
		files = append(files, FileRef{Field: field.NewPath("upstreams").Index(i).Child("caFile"), Path: u.CAFile, Use: FileCA})
	}
	files = append(files, FileRef{Field: identity.Child("clientCAFile"), Path: c.Identity.ClientCAFile, Use: FileCA})
	files = append(files, keyPair(identity, "proxyCertFile", c.Identity.ProxyCertFile, "proxyKeyFile", c.Identity.ProxyKeyFile, true)...)
	if sa := c.Identity.ServiceAccounts; sa != nil {
		for i, file := range sa.KeyFiles {
			files = append(files, FileRef{Field: identity.Child("serviceAccounts", "keyFiles").Index(i), Path: file, Use: FilePublicKeys})
		}
	}
	for i, o := range c.Identity.OIDC {
		path := identity.Child("oidc").Index(i)
		files = append(files, FileRef{Field: path.Child("jwksFile"), Path: o.JWKSFile, Use: FileKeySet, MayBeAbsent: o.JWKSURL != ""})
		if o.CAFile != "" {
			files = append(files, FileRef{Field: path.Child("caFile"), Path: o.CAFile, Use: FileCA})
		}
	}
	if r := c.Admin.Remote; r != nil {
		path := field.NewPath("admin", "remote")
		files = append(files, keyPair(path, "certFile", r.CertFile, "keyFile", r.KeyFile, false)...)
		files = append(files, FileRef{Field: path.Child("clientCAFile"), Path: r.ClientCAFile, Use: FileCA})
	}
	if p := c.Peers; p != nil {
		files = append(files, FileRef{Field: field.NewPath("peers", "keyFile"), Path: p.KeyFile, Use: FilePeerKeys, OwnerOnly: true})
	}
	if t := c.Tracing; t != nil && t.CAFile != "" {
		files = append(files, FileRef{Field: field.NewPath("tracing", "caFile"), Path: t.CAFile, Use: FileCA})
	}
	return files
}

// Files implements Files.
func (c *BreakGlassConfiguration) Files() []FileRef {
	listen, identity := field.NewPath("listen"), field.NewPath("identity")
	files := keyPair(listen, "certFile", c.Listen.CertFile, "keyFile", c.Listen.KeyFile, false)
	files = append(files, FileRef{Field: listen.Child("clientCAFile"), Path: c.Listen.ClientCAFile, Use: FileCA})
	if c.Listen.DeniedSerialsFile != "" {
		files = append(files, FileRef{Field: listen.Child("deniedSerialsFile"), Path: c.Listen.DeniedSerialsFile, Use: FileOther})
	}
	for i, u := range c.Upstreams {
		files = append(files, FileRef{Field: field.NewPath("upstreams").Index(i).Child("caFile"), Path: u.CAFile, Use: FileCA})
	}
	return append(files, keyPair(identity, "proxyCertFile", c.Identity.ProxyCertFile, "proxyKeyFile", c.Identity.ProxyKeyFile, true)...)
}
