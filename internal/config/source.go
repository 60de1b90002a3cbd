package config

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// sourceDocs is what the comments of the API's source say.
type sourceDocs struct {
	types  map[string]string            // type → comment
	fields map[string]map[string]string // type → Go field → comment
	enums  map[string][]string          // string type → its constants, in order
}

// docs reads the API's source once. That it parses is not in doubt: it was compiled.
var docs = sync.OnceValue(func() *sourceDocs {
	d := &sourceDocs{types: map[string]string{}, fields: map[string]map[string]string{}, enums: map[string][]string{}}
	entries, err := v1alpha1.Source.ReadDir(".")
	if err != nil {
		panic("BUG: reading the embedded source: " + err.Error())
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		data, err := v1alpha1.Source.ReadFile(entry.Name())
		if err != nil {
			panic("BUG: reading the embedded source: " + err.Error())
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			panic("BUG: parsing the embedded source: " + err.Error())
		}
		for _, declaration := range file.Decls {
			if general, ok := declaration.(*ast.GenDecl); ok {
				d.read(general)
			}
		}
	}
	return d
})

func (d *sourceDocs) read(declaration *ast.GenDecl) {
	for _, spec := range declaration.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			comment := spec.Doc
			if comment == nil {
				comment = declaration.Doc
			}
			d.types[spec.Name.Name] = text(comment)
			if structure, ok := spec.Type.(*ast.StructType); ok {
				d.readFields(spec.Name.Name, structure)
			}
		case *ast.ValueSpec:
			typeName, ok := spec.Type.(*ast.Ident)
			if !ok || declaration.Tok != token.CONST {
				continue
			}
			for _, value := range spec.Values {
				if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if s, err := strconv.Unquote(literal.Value); err == nil {
						d.enums[typeName.Name] = append(d.enums[typeName.Name], s)
					}
				}
			}
		}
	}
}

// readFields gives a comment to the fields that stand under it: one comment often speaks of the pair that follows.
func (d *sourceDocs) readFields(typeName string, structure *ast.StructType) {
	d.fields[typeName] = map[string]string{}
	for _, f := range structure.Fields.List {
		comment := text(f.Doc)
		if comment == "" {
			comment = text(f.Comment)
		}
		for _, name := range f.Names {
			d.fields[typeName][name.Name] = comment
		}
	}
}

// text is a comment without the markers that are for the generator of the CRD.
func text(comment *ast.CommentGroup) string {
	var lines []string
	for line := range strings.Lines(comment.Text()) {
		if !strings.HasPrefix(line, "+kubebuilder:") {
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, ""))
}

// ofField is the comment of a field.
func (d *sourceDocs) ofField(owner reflect.Type, f reflect.StructField) string {
	return d.fields[owner.Name()][f.Name]
}

// enum is the closed set of a string type, nil when it is open.
func (d *sourceDocs) enum(t reflect.Type) []string {
	if t.Kind() != reflect.String || t.PkgPath() == "" {
		return nil
	}
	return d.enums[t.Name()]
}
