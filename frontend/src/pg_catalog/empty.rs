//! Relations that clients query and that have no rows here, because what they describe does not exist.

use std::sync::LazyLock;

use crate::pg_catalog::relation::{SystemRelation, system};

/// Each relation's name, its oid and its columns; a line that begins with a space goes on with the columns.
const TABLE: &str = "\
pg_aggregate 2600 aggfnoid:oid aggkind:char aggnumdirectargs:int2 aggtransfn:oid
pg_auth_members 1261 roleid:oid member:oid grantor:oid admin_option:bool
pg_cast 2605 oid:oid castsource:oid casttarget:oid castfunc:oid castcontext:char castmethod:char
pg_conversion 2607 oid:oid conname:name connamespace:oid conowner:oid conforencoding:int4 contoencoding:int4
  conproc:oid condefault:bool
pg_db_role_setting 2964 setdatabase:oid setrole:oid setconfig:text[]
pg_default_acl 826 oid:oid defaclrole:oid defaclnamespace:oid defaclobjtype:char defaclacl:text[]
pg_depend 2608 classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid refobjsubid:int4 deptype:char
pg_enum 3501 oid:oid enumtypid:oid enumsortorder:float4 enumlabel:name
pg_event_trigger 3466 oid:oid evtname:name evtevent:name evtowner:oid evtfoid:oid evtenabled:char evttags:text[]
pg_extension 3079 oid:oid extname:name extowner:oid extnamespace:oid extrelocatable:bool extversion:text
  extconfig:oid[] extcondition:text[]
pg_inherits 2611 inhrelid:oid inhparent:oid inhseqno:int4 inhdetachpending:bool
pg_largeobject_metadata 2995 oid:oid lomowner:oid lomacl:text[]
pg_opclass 2616 oid:oid opcmethod:oid opcname:name opcnamespace:oid opcowner:oid opcfamily:oid opcintype:oid
  opcdefault:bool opckeytype:oid
pg_operator 2617 oid:oid oprname:name oprnamespace:oid oprowner:oid oprkind:char oprcanmerge:bool oprcanhash:bool
  oprleft:oid oprright:oid oprresult:oid oprcom:oid oprnegate:oid oprcode:oid
pg_opfamily 2753 oid:oid opfmethod:oid opfname:name opfnamespace:oid opfowner:oid
pg_partitioned_table 3350 partrelid:oid partstrat:char partnatts:int2 partdefid:oid partattrs:int2vector
pg_policy 3256 oid:oid polname:name polrelid:oid polcmd:char polpermissive:bool polroles:oid[] polqual:text
  polwithcheck:text
pg_prepared_xacts 12130 transaction:int8 gid:text prepared:timestamptz owner:name database:name
pg_publication 6104 oid:oid pubname:name pubowner:oid puballtables:bool pubinsert:bool pubupdate:bool
  pubdelete:bool pubtruncate:bool pubviaroot:bool
pg_publication_namespace 6237 oid:oid pnpubid:oid pnnspid:oid
pg_publication_rel 6106 oid:oid prpubid:oid prrelid:oid prqual:text prattrs:int2[]
pg_publication_tables 12131 pubname:name schemaname:name tablename:name
pg_range 3541 rngtypid:oid rngsubtype:oid rngmultitypid:oid rngcollation:oid rngsubopc:oid rngcanonical:oid
  rngsubdiff:oid
pg_replication_slots 12132 slot_name:name plugin:name slot_type:text datoid:oid database:name temporary:bool
  active:bool active_pid:int4
pg_rewrite 2618 oid:oid rulename:name ev_class:oid ev_type:char ev_enabled:char is_instead:bool ev_qual:text
  ev_action:text
pg_rules 12133 schemaname:name tablename:name rulename:name definition:text
pg_seclabel 3596 objoid:oid classoid:oid objsubid:int4 provider:text label:text
pg_sequence 2224 seqrelid:oid seqtypid:oid seqstart:int8 seqincrement:int8 seqmax:int8 seqmin:int8 seqcache:int8
  seqcycle:bool
pg_sequences 12134 schemaname:name sequencename:name sequenceowner:name last_value:int8
pg_shdepend 1214 dbid:oid classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid deptype:char
pg_shdescription 2396 objoid:oid classoid:oid description:text
pg_shseclabel 3592 objoid:oid classoid:oid provider:text label:text
pg_statistic_ext 3381 oid:oid stxrelid:oid stxname:name stxnamespace:oid stxowner:oid stxstattarget:int4
  stxkeys:int2vector stxkind:text[]
pg_stats 12135 schemaname:name tablename:name attname:name inherited:bool null_frac:float4 avg_width:int4
  n_distinct:float4
pg_subscription 6100 oid:oid subdbid:oid subname:name subowner:oid subenabled:bool subconninfo:text
  subpublications:text[]
pg_subscription_rel 6102 srsubid:oid srrelid:oid srsubstate:char
pg_transform 3576 oid:oid trftype:oid trflang:oid trffromsql:oid trftosql:oid
pg_trigger 2620 oid:oid tgrelid:oid tgparentid:oid tgname:name tgfoid:oid tgtype:int2 tgenabled:char
  tgisinternal:bool tgconstrrelid:oid tgconstrindid:oid tgconstraint:oid tgdeferrable:bool tginitdeferred:bool
pg_ts_config 3602 oid:oid cfgname:name cfgnamespace:oid cfgowner:oid cfgparser:oid
pg_ts_dict 3600 oid:oid dictname:name dictnamespace:oid dictowner:oid dicttemplate:oid dictinitoption:text
pg_ts_parser 3601 oid:oid prsname:name prsnamespace:oid
pg_ts_template 3764 oid:oid tmplname:name tmplnamespace:oid
pg_user_mappings 12137 umid:oid srvid:oid srvname:name umuser:oid usename:name umoptions:text[]
pg_user_mapping 1418 oid:oid umuser:oid umserver:oid umoptions:text[]
pg_largeobject 2613 loid:oid pageno:int4
pg_locks 12136 locktype:text database:oid relation:oid pid:int4 mode:text granted:bool
";

/// The relations of this file.
pub static RELATIONS: LazyLock<Vec<SystemRelation>> = LazyLock::new(|| {
    let relation = |text: &'static str| {
        let mut parts = text.splitn(3, ' ');
        let mut next = || parts.next().expect("a name, an oid and columns");
        let (name, oid, columns) = (next(), next().parse().expect("an oid"), next());
        system(name, oid, columns, |_, _| Ok(()))
    };
    entries(TABLE).map(relation).collect()
});

/// The entries of the table: each begins at the start of a line.
fn entries(table: &'static str) -> impl Iterator<Item = &'static str> {
    let mut rest = table;
    std::iter::from_fn(move || {
        let ends = rest.match_indices('\n').map(|(at, _)| at);
        let end = ends.into_iter().find(|at| !rest[at + 1..].starts_with(' '))?;
        let (entry, others) = rest.split_at(end);
        rest = &others[1..];
        Some(entry)
    })
}
