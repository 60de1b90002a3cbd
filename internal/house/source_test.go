package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// source is one parsed Go file.
type source struct {
	file *ast.File
	fset *token.FileSet
	name string // relative to the module's root, for messages
}

// eachFile parses the named files of a package.
func eachFile(t *testing.T, p *pkg, names []string, visit func(*source)) {
	t.Helper()
	for _, name := range names {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		visit(&source{file: file, fset: fset, name: p.room() + "/" + name})
	}
}

// localName is how the file names an imported package, "" when it does not import it.
func (s *source) localName(path string) string {
	for _, spec := range s.file.Imports {
		if spec.Path.Value == strconv.Quote(path) {
			if spec.Name != nil {
				return spec.Name.Name
			}
			return path[strings.LastIndex(path, "/")+1:]
		}
	}
	return ""
}

// uses visits every mention of package.Name, called or not, for packages of the standard library.
func (s *source) uses(path string, visit func(name, position string)) {
	local := s.localName(path)
	if local == "" {
		return
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && x.Name == local {
				visit(selector.Sel.Name, s.position(selector.Pos()))
			}
		}
		return true
	})
}

// calls visits every call of a package's function.
func (s *source) calls(path string, visit func(name, position string)) {
	local := s.localName(path)
	if local == "" {
		return
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if selector, ok := call.Fun.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && x.Name == local {
				visit(selector.Sel.Name, s.position(call.Pos()))
			}
		}
		return true
	})
}

func (s *source) position(pos token.Pos) string {
	return s.name + ":" + strconv.Itoa(s.fset.Position(pos).Line)
}
