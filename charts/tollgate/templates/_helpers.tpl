{{/* Name of the chart in labels. */}}
{{- define "tollgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Stem of the objects' names; short enough for what is put behind it. */}}
{{- define "tollgate.fullname" -}}
{{- $name := include "tollgate.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Stem of cluster-wide names: two releases in two namespaces must not meet. */}}
{{- define "tollgate.clusterName" -}}
{{- $fullname := include "tollgate.fullname" . }}
{{- if eq $fullname .Release.Namespace }}{{ $fullname }}{{ else }}{{ printf "%s-%s" .Release.Namespace $fullname }}{{ end }}
{{- end }}

{{- define "tollgate.operatorServiceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (printf "%s-operator" (include "tollgate.fullname" .)) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "tollgate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tollgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of an object. Takes (dict "root" $ "component" "operator" "labels" (dict)). */}}
{{- define "tollgate.labels" -}}
{{- $own := dict
  "app.kubernetes.io/name" (include "tollgate.name" .root)
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/component" .component
  "app.kubernetes.io/part-of" "tollgate"
  "app.kubernetes.io/managed-by" .root.Release.Service
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version) }}
{{- mergeOverwrite (deepCopy .root.Values.commonLabels) (default dict .labels) $own | toYaml }}
{{- end }}

{{/*
What stands below `metadata:`. Takes (dict "root" $ "component" .. "name" ..), and where needed "namespace" (absent: the
release's; "" : none, for cluster-wide objects), "labels", "annotations".
*/}}
{{- define "tollgate.metadata" -}}
name: {{ .name }}
{{- $namespace := .root.Release.Namespace }}
{{- if hasKey . "namespace" }}{{ $namespace = .namespace }}{{ end }}
{{- with $namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- include "tollgate.labels" . | nindent 2 }}
{{- with mergeOverwrite (deepCopy .root.Values.commonAnnotations) (default dict .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tollgate.image" -}}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry }}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end }}
{{- end }}

{{/* `imagePullSecrets:` with all of them, or nothing. An entry is a name or {name: ..}. */}}
{{- define "tollgate.imagePullSecrets" -}}
{{- $names := list }}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets }}
{{- $names = append $names (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .) }}
{{- end }}
{{- with uniq $names }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Name of the Secret with the master key. */}}
{{- define "tollgate.masterSecret" -}}
{{- default (printf "%s-master" (include "tollgate.fullname" .)) .Values.gateway.masterKey.existingSecret }}
{{- end }}

{{/* Name of the gateway's Service, as the operator names it. */}}
{{- define "tollgate.gatewayService" -}}
{{- if eq .Values.gateway.name "default" }}tollgate{{ else }}tollgate-{{ .Values.gateway.name }}{{ end }}
{{- end }}

{{/* The LLMGateway's spec: the user's, with what the chart adds where it says nothing. */}}
{{- define "tollgate.gatewaySpec" -}}
{{- $spec := dict "default" true }}
{{- if .Values.gateway.masterKey.enabled }}
{{- $_ := set $spec "masterKey" (dict "secretRef" (dict "name" (include "tollgate.masterSecret" .) "key" .Values.gateway.masterKey.key)) }}
{{- end }}
{{- mergeOverwrite $spec (deepCopy .Values.gateway.spec) | toYaml }}
{{- end }}

{{/*
Namespaces that have gateways, as JSON: {"namespace": ["gateway", ..]}. The release's own comes with `gateway.name`.
*/}}
{{- define "tollgate.gatewayNamespaces" -}}
{{- $all := dict .Release.Namespace (list .Values.gateway.name) }}
{{- range .Values.gateways }}
{{- $_ := set $all .namespace (concat (default list (get $all .namespace)) .names | uniq) }}
{{- end }}
{{- toJson $all }}
{{- end }}

{{/* Names of the Secrets that hold a gateway's credentials; the set is fixed. Takes the gateways' names. */}}
{{- define "tollgate.credentials" -}}
{{- range $gateway := . }}
{{- range $number := until 8 }}
- tollgate-{{ $gateway }}-credentials-{{ $number }}
{{- end }}
{{- end }}
{{- end }}

{{/* Namespaces that are read when not all are, as JSON. */}}
{{- define "tollgate.watchNamespaces" -}}
{{- if .Values.watchNamespaces }}{{ concat .Values.watchNamespaces (list .Release.Namespace) | uniq | sortAlpha | toJson }}{{ else }}[]{{ end }}
{{- end }}

{{/* Refuses what would be rendered but cannot work. */}}
{{- define "tollgate.validate" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.leaderElection) }}
{{- fail "replicas above 1 need leaderElection: two operators would write over each other" }}
{{- end }}
{{- $seen := dict "POD_NAMESPACE" 1 "POD_NAME" 1 }}
{{- range .Values.extraEnv }}
{{- if hasKey $seen .name }}{{ fail (printf "extraEnv: %s is set twice" .name) }}{{ end }}
{{- $_ := set $seen .name 1 }}
{{- end }}
{{- if and .Values.watchNamespaces (or .Values.secrets.read.allNamespaces .Values.secrets.generate.allNamespaces) }}
{{- fail "secrets.read.allNamespaces and secrets.generate.allNamespaces need cluster-wide roles: not with watchNamespaces" }}
{{- end }}
{{- $watched := include "tollgate.watchNamespaces" . | fromJsonArray }}
{{- range $namespace, $gateways := include "tollgate.gatewayNamespaces" . | fromJson }}
{{- if and $watched (not (has $namespace $watched)) }}
{{- fail (printf "gateways: namespace %s is not among watchNamespaces, so nobody would serve its gateways" $namespace) }}
{{- end }}
{{- if and (eq $namespace $.Release.Namespace) (has "operator" $gateways) }}
{{- fail "gateways: one named operator would want the name of the operator's Deployment" }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.hosts: name at least one host" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs: name at least one Gateway" }}
{{- end }}
{{- end }}

{{/* A container of `helm test` that asks a URL until it answers well. Takes (dict "root" $ "url" ..). */}}
{{- define "tollgate.testContainer" -}}
image: {{ include "tollgate.image" .root }}
{{- with .root.Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
args: [ready, --wait, {{ .root.Values.test.waitSeconds | quote }}, {{ .url | quote }}]
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {memory: 64Mi}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
{{- end }}
